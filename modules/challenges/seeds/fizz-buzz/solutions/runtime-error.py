n = int(input())
words = [''] * 100
for i in range(1, n + 1):
    words[i] = 'Fizz' * (i % 3 == 0) + 'Buzz' * (i % 5 == 0) or str(i)
print('\n'.join(words[1:n + 1]))
