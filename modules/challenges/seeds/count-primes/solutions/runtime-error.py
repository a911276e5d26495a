n = int(input())
flags = [True] * n
for i in range(2, n + 1):
    if flags[i]:
        for j in range(i * i, n + 1, i):
            flags[j] = False
print(sum(flags[2:]))
