line = input()
print(sum(letter in 'aeiouAEIOU' for letter in line) if line[0] else 0)
