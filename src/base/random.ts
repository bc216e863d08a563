/** Randomness as a dependency, and the short ids made from it. */
import { hash, randomBytes } from 'node:crypto'

export interface Random {
  bytes(count: number): Uint8Array
}

/** Bytes from the operating system. */
export function systemRandom(): Random {
  return { bytes: (count) => randomBytes(count) }
}

/** Digits and letters without those that people confuse (0/o, 1/l, i, u): 30 symbols. */
const ALPHABET = '23456789abcdefghjkmnpqrstvwxyz'

/** An id such as `r-k3m9qx2vwbch`: the prefix and `length` random symbols (4.9 bits each). */
export function randomId(random: Random, prefix: string, length = 12): string {
  let id = `${prefix}-`
  while (id.length < prefix.length + 1 + length) {
    for (const byte of random.bytes(length)) {
      // 240 is the largest multiple of 30 in a byte: rejecting the rest keeps symbols equally likely.
      if (byte < 240 && id.length < prefix.length + 1 + length) id += ALPHABET[byte % 30] ?? ''
    }
  }
  return id
}

/** A fraction in [0, 1), for jitter. */
export function randomFraction(random: Random): number {
  const [a = 0, b = 0, c = 0] = random.bytes(3)
  return (a * 65536 + b * 256 + c) / 16777216
}

/** A repeatable id: the same text gives the same id. For ids that a pure core mints. */
export function derivedId(prefix: string, text: string, length = 12): string {
  let id = `${prefix}-`
  for (const byte of hash('sha256', text, 'buffer').subarray(0, length))
    id += ALPHABET[byte % 30] ?? ''
  return id
}
