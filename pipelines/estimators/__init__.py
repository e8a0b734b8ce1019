"""scikit-learn estimators: ``fit``, ``transform``, ``predict`` over the engine of pipelines.

Each declares a pipeline of its parameters and runs it, so a fit has the bits of that pipeline's
run, on threads of this process or on a cluster.
"""

from deepstrata.pipelines.estimators.dbn import DBNClassifier
from deepstrata.pipelines.estimators.rbm import RBMEncoder

__all__ = ["DBNClassifier", "RBMEncoder"]
