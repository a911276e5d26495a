groups = {}
for _ in range(int(input())):
    word = input().strip()
    groups.setdefault("".join(sorted(word)), []).append(word)
for line in sorted(" ".join(sorted(words)) for words in groups.values()):
    print(line)
