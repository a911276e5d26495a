print(sum(letter in 'aeiouAEIOU' for letter in input()))
