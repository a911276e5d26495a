amount, _ = map(int, input().split())
values = list(map(int, input().split()))
ways = [1] + [0] * amount
for total in range(1, amount + 1):
    ways[total] = sum(ways[total - v] for v in values if v <= total) % 1_000_000_007
print(ways[amount])
