meetings = [tuple(map(int, input().split())) for _ in range(int(input()))]
print(max((sum(a <= t < b for a, b in meetings) for m in meetings for t in range(m[0], m[1])), default=0))
