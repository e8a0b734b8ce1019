"""Numbers that a compiled kernel and its oracle share."""

#: Philox4x32 multipliers and key increments (Salmon et al. 2011, table 2).
PHILOX_M0, PHILOX_M1 = 0xD2511F53, 0xCD9E8D57
PHILOX_W0, PHILOX_W1 = 0x9E3779B9, 0xBB67AE85

#: exp(y) for float32 (Cephes expf, Moshier 1992): y = n ln 2 + r, 355/512 times n is exact.
LIMIT = 87.0  # beyond it the sigmoid or its complement would leave the normal floats
LOG2E = 1.44269504088896341
ROUNDER = 12582912.0  # 1.5 * 2**23: adding it rounds a small float32 to an integer
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
EXP = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)

LN2 = 0.6931471805599453
SQRT_HALF = 0.7071067811865476

BLOCK = 1024  #: numbers whose squares are summed together

#: Inverse of the normal distribution function (Acklam 2003), relative error below 1.2e-9.
CENTRE = 0.47575  # |p - 1/2| up to here takes A and B, the tails take C and D
NORMAL_A = (
    -3.969683028665376e01,
    2.209460984245205e02,
    -2.759285104469687e02,
    1.383577518672690e02,
    -3.066479806614716e01,
    2.506628277459239e00,
)
NORMAL_B = (
    -5.447609879822406e01,
    1.615858368580409e02,
    -1.556989798598866e02,
    6.680131188771972e01,
    -1.328068155288572e01,
    1.0,
)
NORMAL_C = (
    -7.784894002430293e-03,
    -3.223964580411365e-01,
    -2.400758277161838e00,
    -2.549732539343734e00,
    4.374664141464968e00,
    2.938163982698783e00,
)
NORMAL_D = (
    7.784695709041462e-03,
    3.224671290700398e-01,
    2.445134137142996e00,
    3.754408661907416e00,
    1.0,
)
