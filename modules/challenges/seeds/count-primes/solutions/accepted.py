limit = int(input())
is_prime = bytearray([1]) * (limit + 1)
is_prime[:2] = bytes(min(2, limit + 1))
for number in range(2, int(limit**0.5) + 1):
    if is_prime[number]:
        is_prime[number * number :: number] = bytes(len(range(number * number, limit + 1, number)))
print(sum(is_prime))
