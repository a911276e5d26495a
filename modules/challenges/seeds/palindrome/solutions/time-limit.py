kept = [c.lower() for c in input() if c.isalnum()]
left, right = 0, len(kept) - 1
while left < right:
    if kept[left] != kept[right]:
        print('no')
        break
else:
    print('yes')
