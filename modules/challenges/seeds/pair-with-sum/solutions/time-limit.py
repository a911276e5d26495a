n, wanted = map(int, input().split())
numbers = list(map(int, input().split()))
for j in range(n):
    pairs = [i for i in range(j) if numbers[i] + numbers[j] == wanted]
    if pairs:
        print(pairs[-1] + 1, j + 1)
        break
else:
    print('none')
