"""Transfer ratios of small tables."""

import numpy as np
import pytest

from deepstrata.ops.adaptation import in_domain_ratio, transfer_ratio

ERRORS = np.array([[0.1, 0.3], [0.4, 0.2]])
BASELINE = np.array([[0.2, 9.0], [9.0, 0.1]])


def test_errors_after_a_transfer_are_compared_with_those_of_the_target_s_own() -> None:
    assert transfer_ratio(ERRORS, BASELINE) == pytest.approx((0.3 / 0.1 + 0.4 / 0.2) / 2)
    assert in_domain_ratio(ERRORS, BASELINE) == pytest.approx((0.1 / 0.2 + 0.2 / 0.1) / 2)


def test_there_is_no_ratio_to_a_classifier_that_never_errs() -> None:
    perfect = np.array([[0.0, 0.3], [0.4, 0.2]])
    assert transfer_ratio(ERRORS, perfect) is None
    assert in_domain_ratio(ERRORS, perfect) is None
    assert transfer_ratio(ERRORS[:1, :1], BASELINE[:1, :1]) is None
