/**
 * The canonical bytes of every hashed or signed object, against files that never change: stores, journals
 * and signatures of older versions hold these bytes.
 */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { decodeAction, encodeAction } from '../../src/wire/action.ts'
import { encodeObject } from '../../src/wire/cbor.ts'
import { sha256 } from '../../src/wire/digest.ts'
import { jobKey, resolveDerivation } from '../../src/wire/derivation.ts'
import { fingerprintOf } from '../../src/wire/environment.ts'
import { Fact } from '../../src/wire/facts.ts'
import {
  countersignResult,
  decodeSignedResult,
  encodeSignedResult,
  openResult,
  signResult,
} from '../../src/wire/result.ts'
import { decodeTree, encodeTree, type Entry } from '../../src/wire/tree.ts'
import { ACTION, BUILDER, DERIVATION, OWNER, RESULT, TREE } from './samples.ts'

/** Line 1: sha256 of the bytes. Line 2: the bytes in hex. */
async function golden(name: string): Promise<{ digest: string; bytes: Buffer }> {
  const text = await readFile(new URL(`../fixtures/golden/${name}.txt`, import.meta.url), 'utf8')
  const [digest = '', hex = ''] = text.split('\n')
  return { digest, bytes: Buffer.from(hex, 'hex') }
}

async function assertGolden(name: string, bytes: Uint8Array): Promise<Buffer> {
  const expected = await golden(name)
  assert.equal(
    Buffer.from(bytes).toString('hex'),
    expected.bytes.toString('hex'),
    `${name}: the encoding has changed`,
  )
  assert.equal(sha256(expected.bytes), expected.digest)
  return expected.bytes
}

const zlib: Entry = { kind: 'dir', digest: sha256('zlib-dev'), size: 55 }

test('golden: a tree', async () => {
  const bytes = await assertGolden('tree-v1', encodeTree(TREE.toReversed()))
  assert.deepEqual(decodeTree(bytes), TREE)
})

test('golden: the empty tree', async () => {
  const bytes = await assertGolden('tree-empty-v1', encodeTree([]))
  assert.deepEqual(decodeTree(bytes), [])
})

test('golden: the key of a job is the digest of its resolved derivation', async () => {
  const resolved = resolveDerivation(DERIVATION, () => zlib)
  assert(resolved !== undefined)
  assert.equal(jobKey(resolved), (await golden('job-key-v1')).digest)
})

test('golden: an action', async () => {
  const bytes = await assertGolden('action-v1', encodeAction(ACTION))
  assert.deepEqual(decodeAction(bytes), ACTION)
})

test('golden: a fingerprint', async () => {
  const environment = {
    system: 'x86_64-linux',
    base: sha256('base'),
    tools: { flex: sha256('flex'), m4: null, unused: sha256('x') },
  }
  assert.equal(fingerprintOf(environment, ['flex', 'm4']), (await golden('fingerprint-v1')).digest)
})

test('golden: a signed and countersigned result', async () => {
  const signed = countersignResult(signResult(RESULT, BUILDER), OWNER)
  const bytes = await assertGolden('signed-result-v1', encodeSignedResult(signed))
  assert.deepEqual(openResult(decodeSignedResult(bytes), { countersigned: true }), RESULT)
})

test('golden: a fact of the journal', async () => {
  const fact: Fact = {
    type: 'pinned',
    request: 'r-23456789abcd',
    derivation: 'hello',
    action: sha256('action'),
    outputs: RESULT.outputs,
    cached: false,
    log: RESULT.log,
    exitCode: 0,
  }
  await assertGolden('fact-v1', encodeObject(Fact, fact))
})
