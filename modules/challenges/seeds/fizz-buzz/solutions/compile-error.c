#include <stdio.h>

int main(void) {
    int n;
    scanf("%d", &n)
    for (int i = 1; i <= n; i++) puts(i % 15 ? i % 5 ? i % 3 ? "?" : "Fizz" : "Buzz" : "FizzBuzz");
}
