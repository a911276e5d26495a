from itertools import product
n, count = map(int, input().split())
closed = {tuple(map(int, input().split())) for _ in range(count)}
total = 0
for places in product(range(1, n + 1), repeat=n):
    total += all((r, c) not in closed for r, c in enumerate(places, 1)) and all(places[i] != places[j] and abs(places[i] - places[j]) != j - i for j in range(n) for i in range(j))
print(total)
