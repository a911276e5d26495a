size, count = map(int, input().split())
closed = [0] * size
for _ in range(count):
    row, column = map(int, input().split())
    closed[row - 1] |= 1 << (column - 1)
everywhere = (1 << size) - 1


def ways(row, columns, falling, rising):
    if row == size:
        return 1
    total = 0
    free = everywhere & ~(columns | falling | rising | closed[row])
    while free:
        field = free & -free
        free ^= field
        total += ways(row + 1, columns | field, (falling | field) << 1, (rising | field) >> 1)
    return total


print(ways(0, 0, 0, 0))
