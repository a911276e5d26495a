n, count = map(int, input().split())
closed = {tuple(map(int, input().split())) for _ in range(count)}
taken = [False] * 8
places = []


def ways(row):
    if row > n:
        return 1
    total = 0
    for column in range(1, n + 1):
        apart = all(abs(column - c) != row - r for r, c in enumerate(places, start=1))
        if not taken[column - 1] and apart and (row, column) not in closed:
            taken[column - 1] = True
            places.append(column)
            total += ways(row + 1)
            places.pop()
            taken[column - 1] = False
    return total


print(ways(1))
