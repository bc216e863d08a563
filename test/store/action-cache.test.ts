/** Results of actions: only what both signatures vouch for, in bounds. */
import assert from 'node:assert/strict'
import { generateKeyPairSync } from 'node:crypto'
import { join } from 'node:path'
import { test } from 'node:test'
import { Level } from 'level'
import { openActionCache } from '../../src/store/action-cache.ts'
import { digestBytes, EMPTY_DIGEST, sha256, type Digest } from '../../src/wire/digest.ts'
import {
  countersignResult,
  encodeSignedResult,
  peerIdOf,
  signResult,
  type ActionResult,
  type SignedResult,
  type Signer,
} from '../../src/wire/result.ts'
import { log, temporaryDirectory } from './support.ts'

function newSigner(): Signer {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  const spki = publicKey.export({ format: 'der', type: 'spki' })
  return { peerId: peerIdOf(spki.subarray(-32)), privateKey }
}
const builder = newSigner()
const owner = newSigner()

function resultOf(
  action: Digest,
  jobKey: Digest,
  changes: Partial<ActionResult> = {},
): ActionResult {
  return {
    v: 1,
    action,
    jobKey,
    attempt: 'a-abcdefgh',
    exitCode: 0,
    outputs: { out: { kind: 'file', digest: EMPTY_DIGEST, size: 0, executable: false } },
    log: { digest: EMPTY_DIGEST, size: 0 },
    usage: { wallMs: 1, cpuMs: 1, maxRssBytes: 1 },
    userland: null,
    builder: { peerId: builder.peerId, name: 'n', system: 'x86_64-linux', isolation: 'namespace' },
    endedAtWallMs: 1,
    ...changes,
  }
}
const signed = (result: ActionResult): SignedResult =>
  countersignResult(signResult(result, builder), owner)
const job = sha256('job')
const key = (action: Digest): Buffer => Buffer.concat([Buffer.from('a'), digestBytes(action)])

async function openRaw(directory: string): Promise<Level<Uint8Array, Uint8Array>> {
  const db = new Level<Uint8Array, Uint8Array>(directory, {
    keyEncoding: 'view',
    valueEncoding: 'view',
  })
  await db.open()
  return db
}

test('action-cache: finds by action and by job, also after a restart', async () => {
  using directory = temporaryDirectory()
  const actions = Array.from({ length: 10 }, (_, at) => sha256(`action ${at}`))
  {
    await using cache = await openActionCache({ log }, { directory: directory.path })
    for (const action of actions) await cache.put(signed(resultOf(action, job)))
    assert.equal(await cache.find(sha256('other')), undefined)
    await assert.rejects(openActionCache({ log }, { directory: directory.path }), {
      code: 'MESH0105',
    })
  }
  await using cache = await openActionCache({ log }, { directory: directory.path })
  assert.equal(cache.count, 10)
  assert.deepEqual(await cache.actionsOf(job), actions.toReversed().slice(0, 8))
  assert.deepEqual(
    (await cache.find(sha256('action 3')))?.result,
    resultOf(sha256('action 3'), job),
  )
})

test('action-cache: takes only successes with both signatures', async () => {
  using directory = temporaryDirectory()
  await using cache = await openActionCache({ log }, { directory: directory.path })
  const result = resultOf(sha256('x'), job)
  const good = signed(result)
  const other = countersignResult(signResult(result, owner), owner)
  for (const bad of [
    signResult(result, builder),
    other,
    { ...good, body: signed(resultOf(sha256('y'), job)).body },
    { ...good, owner: { peerId: owner.peerId, signature: new Uint8Array(64) } },
    signed(resultOf(sha256('x'), job, { exitCode: 1 })),
  ])
    await assert.rejects(cache.put(bad), { code: 'MESH0210' })
  assert.equal(cache.count, 0)
})

test('action-cache: does not believe its own disk', async () => {
  using directory = temporaryDirectory()
  {
    await using cache = await openActionCache({ log }, { directory: directory.path })
    await cache.put(signed(resultOf(sha256('x'), job)))
  }
  const db = await openRaw(directory.path)
  await db.put(key(sha256('x')), encodeSignedResult(signed(resultOf(sha256('y'), job))))
  await db.put(key(sha256('z')), Buffer.from('garbage'))
  await db.close()
  await using cache = await openActionCache({ log }, { directory: directory.path })
  assert.equal(await cache.find(sha256('x')), undefined)
  assert.equal(await cache.find(sha256('z')), undefined)
})

test('action-cache: the oldest goes when it is full; a repeated one is replaced', async () => {
  using directory = temporaryDirectory()
  const put = (cache: Awaited<ReturnType<typeof openActionCache>>, at: number) =>
    cache.put(signed(resultOf(sha256(`${at}`), at < 5 ? job : sha256(`job ${at}`))))
  const options = { directory: join(directory.path, 'actions'), countMax: 10 }
  {
    await using cache = await openActionCache({ log }, options)
    await Promise.all(Array.from({ length: 14 }, (_, at) => put(cache, at)))
    assert.equal(cache.count, 10)
    assert.equal(await cache.find(sha256('3')), undefined)
    assert.deepEqual(await cache.actionsOf(job), [sha256('4')])
    await cache.put(signed(resultOf(sha256('4'), job, { endedAtWallMs: 99 })))
    assert.equal((await cache.find(sha256('4')))?.result.endedAtWallMs, 99)
    assert.equal(cache.count, 10)
  }
  await using cache = await openActionCache({ log }, options)
  await put(cache, 14)
  assert.equal(cache.count, 10)
  assert.deepEqual(await cache.actionsOf(job), [])
})

test('action-cache: a result goes with any of its outputs, and leaves no mention', async () => {
  using directory = temporaryDirectory()
  const [library, headers, other] = ['library', 'headers', 'other'].map((name) => sha256(name))
  assert(library !== undefined && headers !== undefined && other !== undefined)
  const outputs = (...digests: Digest[]): Pick<ActionResult, 'outputs'> => ({
    outputs: Object.fromEntries(
      digests.map((digest, at) => [`out${at}`, { kind: 'dir', digest, size: 1 }]),
    ),
  })
  const results = {
    both: outputs(library, headers),
    same: outputs(library),
    link: { outputs: { out: { kind: 'symlink' as const, target: 'x' } } },
    rest: outputs(other),
  }
  {
    await using cache = await openActionCache({ log }, { directory: directory.path })
    for (const [name, changes] of Object.entries(results))
      await cache.put(signed(resultOf(sha256(name), job, changes)))
    // Rebuilt with another output: the old one is no output of it any more.
    await cache.put(signed(resultOf(sha256('same'), job, outputs(headers))))
    assert.equal(await cache.forgetOutputs([library, sha256('nothing')]), 1)
    assert.equal(await cache.find(sha256('both')), undefined)
    assert.deepEqual(
      await cache.actionsOf(job),
      ['same', 'rest', 'link'].map((name) => sha256(name)),
    )
  }
  {
    await using cache = await openActionCache({ log }, { directory: directory.path })
    assert.equal(cache.count, 3)
    assert.equal(await cache.forgetOutputs([headers, other]), 2)
    assert.equal(await cache.forgetOutputs([headers, other]), 0)
    assert.equal(await cache.forgetOutputs([]), 0)
    assert.deepEqual(await cache.actionsOf(job), [sha256('link')])
    await cache.put(signed(resultOf(sha256('both'), job, results.both)))
    assert.equal(cache.count, 2)
  }
  const db = await openRaw(directory.path)
  const kinds = (await db.keys().all()).map((found) => String.fromCharCode(found[0] ?? 0)).join('')
  await db.close()
  assert.equal(kinds, 'aaddjmooss')
})

test('action-cache: the oldest goes also when others went before it', async () => {
  using directory = temporaryDirectory()
  await using cache = await openActionCache({ log }, { directory: directory.path, countMax: 3 })
  const put = (name: string) =>
    cache.put(
      signed(
        resultOf(sha256(name), job, {
          outputs: { out: { kind: 'dir', digest: sha256(`output of ${name}`), size: 1 } },
        }),
      ),
    )
  for (const name of ['a', 'b', 'c']) await put(name)
  await cache.forgetOutputs([sha256('output of a')])
  await put('a')
  await put('d')
  assert.deepEqual(
    await Promise.all(
      ['a', 'b', 'c', 'd'].map(async (name) => (await cache.find(sha256(name))) !== undefined),
    ),
    [true, false, true, true],
  )
  assert.equal(cache.count, 3)
})

test('action-cache: one of a version that knew no outputs is read once, and damaged results go', async () => {
  using directory = temporaryDirectory()
  const results = ['x', 'y', 'z'].map((name) => signed(resultOf(sha256(name), job)))
  {
    const db = await openRaw(directory.path)
    for (const [at, name] of ['x', 'y', 'z', 'vanished'].entries()) {
      const order = Buffer.alloc(9, 'o')
      order.writeBigUInt64BE(BigInt(at), 1)
      await db.put(order, digestBytes(sha256(name)))
      const result = results[at]
      if (result !== undefined) await db.put(key(sha256(name)), encodeSignedResult(result))
    }
    await db.put(key(sha256('y')), Buffer.from('garbage'))
    const actions = ['z', 'y', 'x'].map((name) => digestBytes(sha256(name)))
    await db.put(Buffer.concat([Buffer.from('j'), digestBytes(job)]), Buffer.concat(actions))
    await db.close()
  }
  {
    await using cache = await openActionCache({ log }, { directory: directory.path })
    assert.equal(cache.count, 2)
    assert.deepEqual(await cache.actionsOf(job), [sha256('z'), sha256('x')])
  }
  await using cache = await openActionCache({ log }, { directory: directory.path })
  assert.equal(await cache.forgetOutputs([EMPTY_DIGEST]), 2)
  assert.equal(cache.count, 0)
})
