for n in range(1, int(input()) + 1):
    print('Fizz' if n % 3 == 0 else 'Buzz' if n % 5 == 0 else n)
