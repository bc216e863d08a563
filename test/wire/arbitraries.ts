/** Random valid objects of the wire, for properties. */
import fc from 'fast-check'
import { sha256, type Digest } from '../../src/wire/digest.ts'
import type { InputRef, Derivation } from '../../src/wire/derivation.ts'
import type { Entry } from '../../src/wire/tree.ts'

/** Objects as they are decoded, with the usual prototype. */
const plain = { noNullPrototype: true } as const

const wellFormed = (lengthMax: number, lengthMin = 0): fc.Arbitrary<string> =>
  fc
    .string({ unit: 'binary', minLength: lengthMin, maxLength: lengthMax })
    .filter((text) => !text.includes('\0'))

export const anyDigest: fc.Arbitrary<Digest> = fc.string({ maxLength: 8 }).map(sha256)
const size = fc.nat({ max: 2 ** 31 })

export const anyEntry: fc.Arbitrary<Entry> = fc.oneof(
  fc.record(
    { kind: fc.constant('file' as const), digest: anyDigest, size, executable: fc.boolean() },
    plain,
  ),
  fc.record({ kind: fc.constant('dir' as const), digest: anyDigest, size }, plain),
  fc.record({ kind: fc.constant('symlink' as const), target: wellFormed(40, 1) }, plain),
)

const variable = fc.stringMatching(/^[A-Za-z_][A-Za-z0-9_]{0,10}$/)
const inputName = fc.oneof(
  variable,
  fc.stringMatching(/^[A-Za-z0-9_+][A-Za-z0-9_+-]{0,5}\.[A-Za-z0-9_.+-]{0,5}$/),
)
const system = fc.constantFrom('x86_64-linux', 'aarch64-linux', 'any')
const inputs: fc.Arbitrary<Record<string, InputRef>> = fc.dictionary(
  inputName,
  fc.oneof(
    anyEntry.map((entry): InputRef => ({ kind: 'entry', entry })),
    fc.record(
      {
        kind: fc.constant('output' as const),
        derivation: fc.constantFrom('a', 'b'),
        output: fc.constantFrom('out', 'dev'),
      },
      plain,
    ),
  ),
  { maxKeys: 5, noNullPrototype: true },
)
const env = fc.dictionary(variable, wellFormed(20), { maxKeys: 4, noNullPrototype: true })
const args = fc.array(wellFormed(20), { maxLength: 4 })

export const anyDerivation: fc.Arbitrary<Derivation> = fc.record(
  {
    name: fc.constant('d'),
    builder: fc.constantFrom('/bin/sh', './tool', 'python3'),
    args,
    env,
    inputs,
    outputs: fc.uniqueArray(variable, { minLength: 1, maxLength: 3 }),
    system,
    hosts: fc.uniqueArray(system, { maxLength: 2 }),
    variants: fc.array(fc.record({ host: system, args, env, inputs }, plain), { maxLength: 2 }),
    network: fc.boolean(),
    sealed: fc.boolean(),
    tools: fc.uniqueArray(fc.constantFrom('flex', 'm4', 'perl')).map((tools) => tools.toSorted()),
    needs: fc.constant({ cpus: { min: 1, max: 1 }, memoryBytes: 0, diskBytes: 0, features: [] }),
    run: fc.constant({ timeoutMs: 1, maxSilentMs: 1, maxLogBytes: 1024, retries: 0 }),
  },
  plain,
)
