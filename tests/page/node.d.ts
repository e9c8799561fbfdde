/** What these tests use of Node.js. */

declare module "node:test" {
  export function test(name: string, f: () => void): void;
}

declare module "node:assert/strict" {
  export function equal<T>(actual: T, expected: T): void;
  export function deepEqual<T>(actual: T, expected: T): void;
}
