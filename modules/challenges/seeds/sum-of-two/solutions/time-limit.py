a, b = map(int, input().split())
while a < b or a >= b:
    a += 1
print(a)
