meetings = sorted(tuple(map(int, input().split())) for _ in range(int(input())))
ends = [meetings[0][1]]
for a, b in meetings[1:]:
    if min(ends) <= a:
        ends.remove(min(ends))
    ends.append(b)
print(len(ends))
