values = {'I': 1, 'V': 5, 'X': 10, 'L': 50, 'C': 100}
total = before = 0
for letter in reversed(input().strip()):
    value = values[letter]
    total += value if value >= before else -value
    before = max(before, value)
print(total)
