"""FFT lengths with small factors."""


def fft_size(least: int) -> int:
    """The smallest even number >= `least` whose only prime factors are 2, 3 and 5."""
    best = 2
    while best < least:
        best *= 2
    fives = 1
    while fives < best:
        threes = fives
        while threes < best:
            size = 2 * threes
            while size < least:
                size *= 2
            best = min(best, size)
            threes *= 3
        fives *= 5
    return best
