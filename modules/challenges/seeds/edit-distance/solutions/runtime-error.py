import functools
a, b = input(), input()
@functools.cache
def d(i, j):
    if a[i] == b[j]:
        return d(i + 1, j + 1)
    return 1 + min(d(i + 1, j), d(i, j + 1), d(i + 1, j + 1))
print(d(0, 0))
