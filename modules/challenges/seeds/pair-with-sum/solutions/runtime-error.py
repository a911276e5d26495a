n, wanted = map(int, input().split())
numbers = list(map(int, input().split()))
for j in range(n):
    if wanted - numbers[j] in numbers[:j]:
        print(numbers.index(wanted - numbers[j]) + 1, j + 1)
        break
else:
    print(numbers[n])
