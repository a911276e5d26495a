from itertools import permutations
words = [input().strip() for _ in range(int(input()))]
groups = []
while words:
    first = words[0]
    same = [w for w in words if w in {''.join(p) for p in permutations(first)}]
    groups.append(' '.join(sorted(same)))
    words = [w for w in words if w not in same]
print('\n'.join(sorted(groups)))
