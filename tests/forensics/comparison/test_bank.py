"""The bound on an error rate, against a library's."""

from __future__ import annotations

import pytest
from scipy.stats import beta

from pedigree.forensics.comparison.bank import upper_95


@pytest.mark.parametrize("pairs", [1, 7, 59, 332, 2000])
def test_the_bound_is_that_of_clopper_and_pearson(pairs: int) -> None:
    for errors in range(0, pairs, max(1, pairs // 9)):
        assert upper_95(errors, pairs) == pytest.approx(beta.ppf(0.95, errors + 1, pairs - errors), rel=1e-9)


def test_where_nothing_was_asked_or_all_went_wrong_the_bound_is_one() -> None:
    assert upper_95(0, 0) == upper_95(5, 5) == 1.0
