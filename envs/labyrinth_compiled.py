"""What compiles the loops of the labyrinth. The compiled code is kept beside the source, or in the user's cache, for the next process."""

try:
    from numba import njit
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("The labyrinth is drawn by loops that Numba compiles: pip install 'gtmsm-env[labyrinth]'") from error

compiled = njit(cache=True, error_model="numpy")  # a division by zero is no error but infinite, which saves a test each
