from itertools import product
amount, _ = map(int, input().split())
values = list(map(int, input().split()))
counts = product(*(range(amount // value + 1) for value in values))
print(sum(sum(n * v for n, v in zip(each, values)) == amount for each in counts) % 1_000_000_007)
