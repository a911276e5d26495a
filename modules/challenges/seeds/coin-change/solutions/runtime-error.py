amount, _ = map(int, input().split())
values = list(map(int, input().split()))
ways = [1] + [0] * amount
for value in values:
    for total in range(value, amount + 2):
        ways[total] += ways[total - value]
print(ways[amount] % 1_000_000_007)
