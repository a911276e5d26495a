n, wanted = map(int, input().split())
last = {}
answer = "none"
for place, number in enumerate(map(int, input().split()), start=1):
    if wanted - number in last:
        answer = f"{last[wanted - number]} {place}"
        break
    last[number] = place
print(answer)
