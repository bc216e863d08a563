/** Swarms over real links and partial blobs: many at once, old peers, liars, forged lists, restarts, ends of time. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { MeshError } from '../../src/base/errors.ts'
import { SourceError, type BlobSource } from '../../src/store/blob-source.ts'
import type { PartialBlob } from '../../src/store/partial/partial-blobs.ts'
import { decodeCasFrame, encodeCasMessage, encodeData } from '../../src/wire/cas-messages.ts'
import type { ChunkList } from '../../src/wire/chunk-list.ts'
import { sha256 } from '../../src/wire/digest.ts'
import { bytesOf, refOf, text, toArray } from '../contract/blob-store.ts'
import { chunkListOf, until } from './chunk-support.ts'
import { memoryChannels, never, StepClock, turnOver } from './support.ts'
import { bytesIn, SwarmMesh, type MeshNode } from './swarm-mesh.ts'

const MIB = 1024 * 1024
const WHOLE = bytesOf(16 * MIB, 3)
const REF = refOf(WHOLE)
const LIST = chunkListOf(WHOLE)

async function withOrigin(mesh: SwarmMesh): Promise<MeshNode> {
  const origin = await mesh.add('origin')
  await origin.store.put(WHOLE)
  mesh.track(REF.digest, origin)
  return origin
}

/** A source of the whole out of bytes, that may lie and says what it was asked. */
function source(
  name: string,
  options: {
    readonly bytes?: Uint8Array
    readonly list?: ChunkList
    readonly kind?: 'peer' | 'mirror'
  } = {},
): BlobSource & { readonly asked: [number, number | undefined][] } {
  const { bytes = WHOLE, list, kind = 'peer' } = options
  const asked: [number, number | undefined][] = []
  return {
    name,
    kind,
    asked,
    async fetch(ref, { offsetBytes, lengthBytes = ref.size - offsetBytes }) {
      asked.push([offsetBytes, lengthBytes])
      const part = bytes.subarray(offsetBytes, offsetBytes + lengthBytes)
      return (async function* () {
        for (let at = 0; at < part.byteLength; at += 100_000) yield part.subarray(at, at + 100_000)
      })()
    },
    ...(list === undefined ? {} : { chunkList: async () => list }),
  }
}

const damaged = (at: number): Uint8Array => {
  const bytes = Buffer.from(WHOLE)
  bytes[at] = (bytes[at] ?? 0) ^ 0xff
  return bytes
}

test('swarm: eight at once get the blob, and the origin sends it once', async () => {
  await using mesh = new SwarmMesh()
  const origin = await withOrigin(mesh)
  const nodes = await Promise.all(Array.from({ length: 8 }, (_, at) => mesh.add(`node ${at}`)))
  const fetched = await Promise.all(
    nodes.map((node) => node.fetcher.fetch(REF, { hints: origin.hints(node), signal: never })),
  )
  for (const node of nodes) assert.deepEqual(refOf(await bytesIn(node, REF)), REF)
  assert.deepEqual(fetched[0], { local: 0, peer: REF.size, mirror: 0 })
  const egress = origin.sentBytes() / REF.size
  assert(egress <= 1.1, `${egress} blobs`)
  // Nobody has to be told any more.
  await until(() => [origin, ...nodes].every(({ swarms }) => swarms.count === 0))
})

test('swarm: the origin may leave when each chunk is with somebody', async () => {
  await using mesh = new SwarmMesh()
  const origin = await withOrigin(mesh)
  const nodes = await Promise.all(Array.from({ length: 4 }, (_, at) => mesh.add(`node ${at}`)))
  const fetching = Promise.all(
    nodes.map((node) => node.fetcher.fetch(REF, { hints: origin.hints(node), signal: never })),
  )
  const held = (chunk: number): boolean =>
    nodes.some(({ partials }) => partials.find(REF.digest)?.has(chunk) === true)
  await until(() => LIST.chunks.every((_, chunk) => held(chunk)))
  origin.kill()
  await fetching
  for (const node of nodes) assert.deepEqual(refOf(await bytesIn(node, REF)), REF)
})

test('swarm: peers of an older version are ordinary sources', async () => {
  await using mesh = new SwarmMesh()
  const old = await mesh.add('old', { isOld: true })
  await old.store.put(WHOLE)
  mesh.track(REF.digest, old)
  const node = await mesh.add('node')
  const listed = source('has only the list', { bytes: new Uint8Array(), list: LIST })
  const none = { ...listed, fetch: async () => undefined }
  await node.fetcher.fetch(REF, { hints: [none, ...old.hints(node)], signal: never })
  assert.deepEqual(refOf(await bytesIn(node, REF)), REF)
  // Without a list from anybody it comes whole.
  const other = await mesh.add('other')
  await other.fetcher.fetch(REF, { hints: old.hints(other), signal: never })
  assert.deepEqual(refOf(await bytesIn(other, REF)), REF)
})

test('swarm: a lone source is asked for long runs from the front', async () => {
  await using mesh = new SwarmMesh()
  const node = await mesh.add('node')
  const lone = source('lone', { list: LIST })
  await node.fetcher.fetch(REF, { hints: [lone], signal: never })
  assert(lone.asked.length <= 8, `${lone.asked.length} times`)
  const offsets = lone.asked.map(([offset]) => offset)
  assert.deepEqual(
    offsets,
    offsets.toSorted((a, b) => a - b),
  )
})

test('swarm: a peer that cannot be linked with is an ordinary source, but one that is fetching itself is none', async () => {
  for (const hasAll of [true, false]) {
    await using mesh = new SwarmMesh()
    const mirror = source('mirror', { kind: 'mirror' })
    const node = await mesh.add('node', { mirrors: [mirror] })
    const http = source('http', { list: LIST })
    mesh.asPeer(http, {
      peerId: 'peer',
      hasAll,
      sources: [http],
      link: () => Promise.reject(new SourceError('failed', 'no route')),
    })
    await node.fetcher.fetch(REF, { hints: [http], signal: never })
    assert.deepEqual([http.asked.length > 0, mirror.asked.length > 0], [hasAll, !hasAll])
  }
})

test('swarm: several sources share the work, mirrors are left in peace', async () => {
  await using mesh = new SwarmMesh()
  const mirror = source('mirror', { kind: 'mirror', list: LIST })
  const node = await mesh.add('node', { mirrors: [mirror] })
  const [a, b] = [source('a', { list: LIST }), source('b')]
  await node.fetcher.fetch(REF, { hints: [a, b], signal: never })
  assert(a.asked.length > 0 && b.asked.length > 0)
  assert.equal(mirror.asked.length, 0)
})

test('swarm: an earlier try is gone on with', async () => {
  await using mesh = new SwarmMesh()
  const node = await mesh.add('node')
  const first = source('first', { list: LIST })
  const leaving = new AbortController()
  const fetching = node.fetcher.fetch(REF, { hints: [first], signal: leaving.signal })
  const partial = (): PartialBlob | undefined => node.partials.find(REF.digest)
  await until(() => (partial()?.missingCount ?? Infinity) <= LIST.chunks.length / 2)
  leaving.abort(new Error('changed my mind'))
  await assert.rejects(fetching, /changed my mind/)
  await until(() => partial() === undefined)
  const second = source('second', { list: LIST })
  const { local, peer } = await node.fetcher.fetch(REF, { hints: [second], signal: never })
  assert(local >= REF.size / 4 && local + peer === REF.size, `${local} were here`)
  const askedBytes = second.asked.reduce((sum, [, length = 0]) => sum + length, 0)
  assert(askedBytes <= peer + 2 * MIB, `${askedBytes} asked for ${peer}`)
})

test('swarm: of a new version only what is new is fetched', async () => {
  await using mesh = new SwarmMesh()
  const node = await mesh.add('node')
  await node.store.put(WHOLE)
  const next = Buffer.concat([
    WHOLE.subarray(0, 5 * MIB),
    text('inserted'),
    WHOLE.subarray(5 * MIB),
  ])
  const list = chunkListOf(next)
  const { local, peer } = await node.fetcher.fetch(refOf(next), {
    hints: [source('origin', { bytes: next, list })],
    signal: never,
  })
  assert(peer <= 2 * MIB && local + peer === next.byteLength, `${peer} bytes fetched`)
  assert.deepEqual(refOf(await bytesIn(node, refOf(next))), refOf(next))
})

test('swarm: who sends a wrong chunk is left, and banned when the whole turns out right', async () => {
  await using mesh = new SwarmMesh()
  const origin = await withOrigin(mesh)
  const node = await mesh.add('node')
  const liar = source('liar', { bytes: damaged(2 * MIB), list: LIST })
  await node.fetcher.fetch(REF, { hints: [liar, ...origin.hints(node)], signal: never })
  assert.deepEqual(refOf(await bytesIn(node, REF)), REF)
  // It may never have been asked for the wrong one; then it did not lie.
  const lied = liar.asked.some(([at, length = 0]) => at <= 2 * MIB && at + length > 2 * MIB)
  assert.equal(node.health.isBanned(liar, 0), lied)
})

test('swarm: a lone liar is found out, the next source is used', async () => {
  await using mesh = new SwarmMesh()
  const mirror = source('mirror', { kind: 'mirror' })
  const node = await mesh.add('node', { mirrors: [mirror] })
  const liar = source('liar', { bytes: damaged(2 * MIB), list: LIST })
  const { mirror: fromMirror } = await node.fetcher.fetch(REF, { hints: [liar], signal: never })
  assert(fromMirror > 0)
  assert.deepEqual(refOf(await bytesIn(node, REF)), REF)
  assert(node.health.isBanned(liar, 0))
})

test('swarm: with a forged list that adds up its source is banned, not the senders of chunks', async () => {
  await using mesh = new SwarmMesh()
  const node = await mesh.add('node')
  const other = damaged(2 * MIB)
  const forged = { ...chunkListOf(other), ...REF }
  const forger = source('forger', { bytes: other, list: forged })
  const honest = source('honest')
  await node.fetcher.fetch(REF, { hints: [forger, honest], signal: never })
  assert.deepEqual(refOf(await bytesIn(node, REF)), REF)
  assert(node.health.isBanned(forger, 0))
  assert(!node.health.isBanned(honest, 0))
})

test('swarm: a list of wrong digests makes nobody a liar but its source', async () => {
  await using mesh = new SwarmMesh()
  const node = await mesh.add('node')
  const chunks = LIST.chunks.map((chunk, at) => ({ ...chunk, digest: sha256(`wrong ${at}`) }))
  const forger = source('forger', { bytes: new Uint8Array(), list: { ...LIST, chunks } })
  const honest = ['a', 'b', 'c'].map((name) => source(name))
  const none = { ...forger, fetch: async () => undefined }
  await node.fetcher.fetch(REF, { hints: [none, ...honest], signal: never })
  assert.deepEqual(refOf(await bytesIn(node, REF)), REF)
  assert(node.health.isBanned(forger, 0))
  for (const one of honest) assert(!node.health.isBanned(one, 0), one.name)
})

test('swarm: a member that lies is not a neighbour any more', async () => {
  await using mesh = new SwarmMesh()
  const origin = await withOrigin(mesh)
  const liar = await mesh.add('liar')
  await liar.store.put(WHOLE)
  mesh.track(REF.digest, liar)
  let lies = 0
  liar.transform = (frame) => {
    const message = decodeCasFrame(frame)
    if (message?.type !== 'data') return frame
    lies++
    return encodeData(
      message.pieces.map((piece) => ({ ...piece, bytes: new Uint8Array(piece.bytes.byteLength) })),
    )
  }
  const nodes = await Promise.all(['a', 'b', 'c'].map((name) => mesh.add(name)))
  await Promise.all(
    nodes.map((node) => node.fetcher.fetch(REF, { hints: origin.hints(node), signal: never })),
  )
  for (const node of nodes) assert.deepEqual(refOf(await bytesIn(node, REF)), REF)
  assert(lies > 0)
})

test('swarm: a silent source gets company', async () => {
  const clock = new StepClock()
  await using mesh = new SwarmMesh()
  const mirror = source('mirror', { kind: 'mirror', list: LIST })
  const node = await mesh.add('node', { clock, mirrors: [mirror] })
  const silent: BlobSource = {
    ...source('silent', { list: LIST }),
    fetch: (_, { signal }) =>
      new Promise((_resolve, reject) =>
        signal.addEventListener('abort', () => reject(signal.reason), { once: true }),
      ),
  }
  const { mirror: fromMirror } = await clock.run(
    node.fetcher.fetch(REF, { hints: [silent], signal: never }),
    // The files are real: their time is not that of the clock.
    1,
  )
  assert.equal(fromMirror, REF.size)
  // What the silent one was asked for is asked of the other one before it has stalled.
  assert(mirror.asked.length > 4 && clock.nowMs() < 30_000, `${clock.nowMs()} ms`)
})

test('swarm: what nobody has is given up in bounded time, and each source is named', async () => {
  const clock = new StepClock()
  await using mesh = new SwarmMesh()
  const node = await mesh.add('node', { clock })
  const other = await mesh.add('other', { clock })
  mesh.track(REF.digest, other)
  const listed = { ...source('has only the list', { list: LIST }), fetch: async () => undefined }
  await assert.rejects(
    clock.run(node.fetcher.fetch(REF, { hints: [listed, ...other.hints(node)], signal: never })),
    { code: 'MESH0501', message: /has only the list: does not have it/ },
  )
  assert(clock.nowMs() < 60_000, `${clock.nowMs()} ms`)
})

test('swarm: a full disk is told as such, what came stays, and no source is blamed', async () => {
  await using mesh = new SwarmMesh()
  const node = await mesh.add('node')
  const lone = source('lone', { list: LIST })
  const open = node.partials.open.bind(node.partials)
  node.partials.open = async (ref, list) => {
    const partial = await open(ref, list)
    const write = partial.write.bind(partial)
    partial.write = async (chunk, bytes) => {
      if (partial.missingCount < list.chunks.length / 2) throw new MeshError('MESH0503', 'no room')
      return write(chunk, bytes)
    }
    return partial
  }
  await assert.rejects(node.fetcher.fetch(REF, { hints: [lone], signal: never }), {
    code: 'MESH0503',
  })
  assert(!node.health.isDoubtful(lone))
  node.partials.open = open
  assert((await node.fetcher.fetch(REF, { hints: [lone], signal: never })).local > REF.size / 4)
})

test('swarm: only chunks that are here and checked are given, to members only what is shown', async () => {
  await using mesh = new SwarmMesh()
  const node = await mesh.add('node')
  await using partial = await node.partials.open(REF, LIST)
  const [first, second] = LIST.chunks
  assert(first !== undefined && second !== undefined)
  await partial.write(0, WHOLE.subarray(0, first.length))
  const asker = await mesh.add('asker')
  const { source: link } = await node.peer(asker).link(never)
  const read = async (offsetBytes: number, lengthBytes: number): Promise<Buffer | undefined> => {
    const pieces = await link.fetch(REF, { offsetBytes, lengthBytes, signal: never })
    return pieces && Buffer.concat(await toArray(pieces))
  }
  assert.deepEqual(await read(10, first.length - 20), WHOLE.subarray(10, first.length - 10))
  assert.equal(await read(second.offset, 100), undefined)
  assert.equal(await read(first.length - 10, 20), undefined)
})

test('swarm: a bitmap of another blob ends nothing but the join', async () => {
  await using mesh = new SwarmMesh()
  const origin = await withOrigin(mesh)
  const [channel, remote] = memoryChannels()
  origin.open(channel, 'stranger')
  await remote.send(encodeCasMessage({ type: 'hello', v: 1, features: ['swarm'] }))
  const list = sha256('another list')
  await remote.send(
    encodeCasMessage({ type: 'join', ...REF, list, bitmap: new Uint8Array(LIST.chunks.length) }),
  )
  const types: (string | undefined)[] = []
  while (types.at(-1) !== 'leave')
    types.push(decodeCasFrame((await remote.receive()) ?? assert.fail())?.type)
  assert.deepEqual(types, ['hello', 'leave'])
  await until(() => origin.swarms.count === 0)
})

test('swarm: leaving stops the bytes', async () => {
  await using mesh = new SwarmMesh()
  const origin = await withOrigin(mesh)
  const node = await mesh.add('node')
  const leaving = new AbortController()
  const fetching = node.fetcher.fetch(REF, { hints: origin.hints(node), signal: leaving.signal })
  await until(() => (node.partials.find(REF.digest)?.missingCount ?? Infinity) < LIST.chunks.length)
  leaving.abort(new SourceError('failed', 'left'))
  await assert.rejects(fetching, /left/)
  await until(() => origin.swarms.count === 0)
  const before = origin.sentBytes()
  for (let turn = 0; turn < 200; turn++) await turnOver()
  assert(origin.sentBytes() - before < MIB, 'a megabyte under way is not more')
  assert(origin.sentBytes() < REF.size / 2 + 8 * MIB)
})
