/** Actions and the derivations that they are made from. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  actionDigest,
  decodeAction,
  encodeAction,
  makeAction,
  type Action,
} from '../../src/wire/action.ts'
import { decodeCbor, encodeCbor } from '../../src/wire/cbor.ts'
import { sha256 } from '../../src/wire/digest.ts'
import {
  dependenciesOf,
  GraphJson,
  GraphWire,
  hostsOf,
  jobKey,
  resolveDerivation,
  type Derivation,
} from '../../src/wire/derivation.ts'
import { decodeObject, encodeObject } from '../../src/wire/cbor.ts'
import type { Entry } from '../../src/wire/tree.ts'
import { anyDerivation } from './arbitraries.ts'
import { ACTION, DERIVATION } from './samples.ts'

const refused = { code: 'MESH0210' }
const entry: Entry = { kind: 'symlink', target: '/usr' }
const lookup = (): Entry => entry
const fingerprint = sha256('f')

function resolved(derivation: Derivation) {
  return resolveDerivation(derivation, lookup) ?? assert.fail('it is resolved')
}

/** The bytes of the sample with some fields replaced, past all checks. */
function forged(changes: Record<string, unknown>): Uint8Array {
  const value = decodeCbor(encodeAction(ACTION), 'action')
  assert(typeof value === 'object' && value !== null)
  return encodeCbor({ ...value, ...changes })
}

const link = { kind: 'symlink', target: 'x' }

test('action: inputs that overlap, repeat or are unsorted are refused', () => {
  for (const paths of [
    ['/build/in/b', '/build/in/a'],
    ['/build/in/a', '/build/in/a'],
    ['/build/in/a', '/build/in/a/b'],
    ['/build', '/build/in/a'],
    ['/a', '/a-b', '/a/c'],
  ])
    assert.throws(
      () => decodeAction(forged({ inputs: paths.map((path) => [path, link]) })),
      refused,
      paths.join(),
    )
  assert.equal(
    decodeAction(forged({ inputs: ['/a', '/a-b', '/a.c', '/ab'].map((path) => [path, link]) }))
      .inputs.length,
    4,
  )
})

test('action: paths that are not canonical are refused', () => {
  for (const path of [
    'relative',
    '/',
    '',
    '/a/',
    '/a//b',
    '/a/./b',
    '/a/../b',
    '/..',
    '/a/..',
    '/a\0',
  ])
    for (const changes of [{ cwd: path }, { inputs: [[path, link]] }, { outputs: [['out', path]] }])
      assert.throws(
        () => decodeAction(forged(changes)),
        refused,
        `${path} ${Object.keys(changes).join()}`,
      )
  for (const path of ['/a', '/a/...', '/a/..b', '/.a/b'])
    assert.equal(decodeAction(forged({ cwd: path })).cwd, path)
})

test('action: every encoding but the canonical one is refused', () => {
  const bytes = Buffer.from(encodeAction(ACTION))
  assert.throws(() => decodeAction(Buffer.concat([bytes, bytes])), refused)
  assert.throws(() => decodeAction(bytes.subarray(0, 40)), refused)
  for (const changes of [
    { more: 1 },
    { v: 2 },
    { argv: [] },
    { outputs: [] },
    { sealed: 1 },
    { fingerprint: sha256('x') },
    { env: { 'A-B': 'x' } },
    { env: { A: 'x\0' } },
    { fetch: null },
  ])
    assert.throws(() => decodeAction(forged(changes)), refused, JSON.stringify(changes))
})

test('action: what its derivation makes of it can be decoded again', () => {
  fc.assert(
    fc.property(anyDerivation, (derivation) => {
      const action = makeAction(resolved(derivation), { system: 'x86_64-linux' }, fingerprint)
      assert.deepEqual(decodeAction(encodeAction(action)), action)
    }),
  )
})

test('action: inputs are placed and named as a build expects them', () => {
  const action = makeAction(resolved(DERIVATION), { system: 'x86_64-linux' }, fingerprint)
  assert.deepEqual(
    action.inputs.map(([path]) => path),
    ['/build/in/lib', '/build/in/src', '/build/work/config.h'],
  )
  assert.deepEqual(action.argv, ['/bin/sh', '-c', 'cc -o $out $src'])
  assert.deepEqual(action.env, {
    PATH: '/usr/bin:/bin',
    HOME: '/build/home',
    TMPDIR: '/build/tmp',
    LC_ALL: 'C',
    TZ: 'UTC',
    lib: '/build/in/lib',
    src: '/build/in/src',
    out: '/build/out/out',
    dev: '/build/out/dev',
    CFLAGS: '-O2',
    A: 'ä',
  })
})

test('action: the variant of the machine adds its arguments, environment and inputs', () => {
  const action = makeAction(resolved(DERIVATION), { system: 'aarch64-linux' }, fingerprint)
  assert.equal(action.argv.at(-1), '--cross')
  assert.deepEqual(
    [action.env['CC'], action.env['cross'], action.system],
    ['x86_64-linux-gnu-gcc', '/build/in/cross', 'x86_64-linux'],
  )
})

test('action: everything in it is part of its digest', () => {
  const changes: Partial<Action>[] = [
    { argv: ['/bin/sh'] },
    { env: {} },
    { cwd: '/build' },
    { inputs: [] },
    { outputs: [['dev', '/build/out/dev']] },
    { system: 'any' },
    { fingerprint },
    { sealed: false },
    { network: true },
    { fetch: fingerprint },
  ]
  const digests = new Set(
    [ACTION, ...changes.map((change) => ({ ...ACTION, ...change }))].map(actionDigest),
  )
  assert.equal(digests.size, changes.length + 1)
})

// ---- derivations

test('derivation: needs, limits, name and place do not change the key; all else does', () => {
  const key = (changes: Partial<Derivation>): string =>
    jobKey(resolved({ ...DERIVATION, ...changes }))
  const same: Partial<Derivation>[] = [
    { name: 'other' },
    { where: 'elsewhere:9' },
    { needs: { ...DERIVATION.needs, memoryBytes: 99 } },
    { run: { ...DERIVATION.run, retries: 0 } },
    { outputs: DERIVATION.outputs.toReversed() },
    { hosts: DERIVATION.hosts.toReversed() },
  ]
  for (const changes of same) assert.equal(key(changes), key({}), JSON.stringify(changes))
  const other: Partial<Derivation>[] = [
    { builder: '/bin/bash' },
    { args: [] },
    { env: {} },
    { inputs: {} },
    { outputs: ['out'] },
    { system: 'any' },
    { hosts: [] },
    { variants: [] },
    { network: true },
    { sealed: false },
    { tools: [] },
    { fetch: { urls: ['https://a'], sha256: fingerprint } },
  ]
  assert.equal(new Set([key({}), ...other.map(key)]).size, other.length + 1)
})

test('derivation: the places of a source are not part of its key', () => {
  const key = (urls: string[]): string =>
    jobKey(resolved({ ...DERIVATION, fetch: { urls, sha256: fingerprint } }))
  assert.equal(key(['https://a']), key(['https://b', 'https://c']))
})

test('derivation: it is resolved once every input is known, of its variants too', () => {
  const known = new Set<string>()
  const find = (derivation: string, output: string): Entry | undefined =>
    known.has(`${derivation}.${output}`) ? entry : undefined
  const cross = {
    host: 'any',
    args: [],
    env: {},
    inputs: { gcc: { kind: 'output' as const, derivation: 'gcc', output: 'out' } },
  }
  const derivation = { ...DERIVATION, variants: [cross] }
  assert.deepEqual(dependenciesOf(derivation), ['zlib', 'gcc'])
  assert.equal(resolveDerivation(derivation, find), undefined)
  known.add('zlib.dev')
  assert.equal(resolveDerivation(derivation, find), undefined)
  known.add('gcc.out')
  assert.equal(resolveDerivation(derivation, find)?.variants[0]?.inputs['gcc'], entry)
})

test('derivation: it runs where it says, else on its own system and those of its variants', () => {
  assert.deepEqual(hostsOf(DERIVATION), ['x86_64-linux', 'aarch64-linux'])
  assert.deepEqual(hostsOf({ ...DERIVATION, hosts: [], system: 'riscv64-linux' }), [
    'riscv64-linux',
    'aarch64-linux',
  ])
})

test('derivation: a graph survives the wire and JSON', () => {
  fc.assert(
    fc.property(anyDerivation, (derivation) => {
      const graph = { v: 1 as const, name: 'g', derivations: [derivation], wanted: ['d'] }
      assert.deepEqual(decodeObject(GraphWire, encodeObject(GraphWire, graph), 'graph'), graph)
      assert.deepEqual(GraphJson.parse(JSON.parse(JSON.stringify(graph))), graph)
    }),
  )
})
