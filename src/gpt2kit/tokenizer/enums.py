"""Enums that scripts pass where a string does: each is its string."""

from enum import Enum


class TensorType(str, Enum):
    """What return_tensors takes."""

    PYTORCH = "pt"
    NUMPY = "np"
    MLX = "mlx"


class PaddingStrategy(str, Enum):
    """What padding takes."""

    LONGEST = "longest"
    MAX_LENGTH = "max_length"
    DO_NOT_PAD = "do_not_pad"


class TruncationStrategy(str, Enum):
    """What truncation takes."""

    ONLY_FIRST = "only_first"
    ONLY_SECOND = "only_second"
    LONGEST_FIRST = "longest_first"
    DO_NOT_TRUNCATE = "do_not_truncate"
