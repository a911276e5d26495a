n = int(input())
print(sum(pow(2, k - 1, k) == 1 for k in range(3, min(n, 3000) + 1)) + (n >= 1))
