"""How much is lost when a classifier is carried from one domain to another.

Glorot, Bordes, Bengio (2011), "Domain adaptation for large-scale sentiment classification". Of an
(M, M) table of errors row s is a classifier trained in domain s, column t where it is tested.
"""

import numpy as np
import numpy.typing as npt

Errors = npt.NDArray[np.float64]


def transfer_ratio(errors: Errors, baseline: Errors) -> float | None:
    """Return the mean of ``e(s, t) / e_b(t, t)`` over s != t.

    Parameters
    ----------
    errors
        (M, M) shares of samples that are classified wrongly.
    baseline
        (M, M) those of the classifiers to compare with, of which the diagonal is used.

    Returns
    -------
    float or None
        None where there are fewer than two domains, or a baseline that never errs.
    """
    within = baseline.diagonal()
    if len(errors) < 2 or not within.all():
        return None
    return float((errors / within)[~np.eye(len(errors), dtype=bool)].mean())


def in_domain_ratio(errors: Errors, baseline: Errors) -> float | None:
    """Return the mean of ``e(t, t) / e_b(t, t)``: what is gained or lost without a transfer."""
    within = baseline.diagonal()
    return float((errors.diagonal() / within).mean()) if within.all() else None
