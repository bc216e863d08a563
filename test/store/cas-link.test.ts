/** `/mesh/cas/1` between two ends in memory: honest, busy, lying, silent and dead ones. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock, type Clock } from '../../src/base/clock.ts'
import { openCasLink, type CasLink, type CasLinkOptions } from '../../src/store/cas-link.ts'
import { openMemoryBlobStore } from '../../src/store/memory-blob-store.ts'
import { decodeCasFrame, encodeCasMessage, encodeData } from '../../src/wire/cas-messages.ts'
import type { BlobRef } from '../../src/wire/digest.ts'
import { bytesOf, readAll, refOf, text, toArray } from '../contract/blob-store.ts'
import { log, memoryChannels, never, StepClock, turnOver, type MemoryChannel } from './support.ts'

interface Pair extends Disposable {
  readonly asker: CasLink
  readonly answerer: CasLink
  readonly askerChannel: MemoryChannel
  readonly answererChannel: MemoryChannel
}

function pair(
  answering: CasLinkOptions,
  asking: CasLinkOptions = {},
  clock: Clock = systemClock(),
): Pair {
  const [askerChannel, answererChannel] = memoryChannels()
  const asker = openCasLink({ channel: askerChannel, clock, log }, asking)
  const answerer = openCasLink({ channel: answererChannel, clock, log }, answering)
  return { asker, answerer, askerChannel, answererChannel, [Symbol.dispose]: () => asker.close() }
}

/** An asker against frames written by hand. */
async function against(clock: Clock): Promise<{
  link: CasLink
  remote: MemoryChannel
  next: () => Promise<ReturnType<typeof decodeCasFrame>>
}> {
  const [channel, remote] = memoryChannels()
  const link = openCasLink({ channel, clock, log }, {})
  await remote.send(encodeCasMessage({ type: 'hello', v: 1, features: ['later'] }))
  const next = async (): Promise<ReturnType<typeof decodeCasFrame>> => {
    const frame = await remote.receive()
    return frame === undefined ? undefined : decodeCasFrame(frame)
  }
  assert.equal((await next())?.type, 'hello')
  return { link, remote, next }
}

const fetchAll = async (
  { source }: CasLink,
  ref: BlobRef,
  offsetBytes = 0,
): Promise<Buffer | undefined> => readAll(await source.fetch(ref, { offsetBytes, signal: never }))

test('cas-link: fetches blobs of any size, from any offset, in both directions', async () => {
  const stores = [openMemoryBlobStore(), openMemoryBlobStore()] as const
  using link = pair({ store: stores[0] }, { store: stores[1] })
  for (const size of [0, 1, 1024 * 1024 - 1, 1024 * 1024, 1024 * 1024 + 1, 10_000_000]) {
    const bytes = bytesOf(size, size)
    for (const [at, store] of stores.entries()) {
      const ref = await store.put(bytes)
      const asker = at === 0 ? link.asker : link.answerer
      assert.deepEqual(await fetchAll(asker, ref), bytes)
      if (size > 0) assert.deepEqual(await fetchAll(asker, ref, size - 1), bytes.subarray(size - 1))
      assert.deepEqual(await fetchAll(asker, ref, size), Buffer.alloc(0))
    }
  }
})

test('cas-link: tells what is there, and what is not', async () => {
  const store = openMemoryBlobStore()
  const secret = await store.put(text('secret'))
  const refs = []
  for (let at = 0; at < 5000; at++)
    refs.push(at % 3 === 0 ? refOf(text(`absent ${at}`)) : await store.put(text(`blob ${at}`)))
  using link = pair({ store, mayRead: (digest) => digest !== secret.digest })
  const { source } = link.asker
  assert(source.has !== undefined && source.fetchMany !== undefined)
  assert.deepEqual(
    await source.has([secret.digest, ...refs.map(({ digest }) => digest)], { signal: never }),
    [false, ...refs.map((_, at) => at % 3 !== 0)],
  )
  const got = await toArray(source.fetchMany([secret, ...refs], { signal: never }))
  assert.equal(got.length, refs.length - Math.ceil(5000 / 3))
  for (const { ref, bytes } of got) assert.deepEqual(refOf(bytes), ref)
  assert.equal(await fetchAll(link.asker, secret), undefined)
  assert.equal(await fetchAll(link.asker, refOf(text('absent'))), undefined)
  // Of another size it is another blob.
  assert.equal(await fetchAll(link.asker, { ...(refs[1] ?? assert.fail()), size: 3 }), undefined)
})

test('cas-link: ten thousand small blobs take few messages', async () => {
  const store = openMemoryBlobStore()
  const refs = []
  for (let at = 0; at < 10_000; at++) refs.push(await store.put(bytesOf(4096, at)))
  using link = pair({ store })
  assert.equal(
    (await toArray(link.asker.source.fetchMany?.(refs, { signal: never }) ?? assert.fail())).length,
    10_000,
  )
  assert(link.askerChannel.sent.frames <= 25, `${link.askerChannel.sent.frames} frames asked`)
  assert(
    link.answererChannel.sent.frames <= 400,
    `${link.answererChannel.sent.frames} frames answered`,
  )
})

test('cas-link: a small blob does not wait behind a big one', async () => {
  const store = openMemoryBlobStore()
  const big = await store.put(bytesOf(64_000_000))
  const small = await store.put(text('urgent'))
  using link = pair({ store })
  const bigPieces =
    (await link.asker.source.fetch(big, { offsetBytes: 0, signal: never })) ?? assert.fail()
  let before = 0
  let smallAt: number | undefined
  for await (const piece of bigPieces) {
    if (before === 0) void fetchAll(link.asker, small).then(() => (smallAt = before))
    before += piece.byteLength
  }
  assert(smallAt !== undefined && smallAt <= 8 * 1024 * 1024, `after ${smallAt} bytes`)
})

test('cas-link: an urgent blob waits for a few frames, however much of a big one is asked for', async () => {
  const store = openMemoryBlobStore()
  const big = await store.put(bytesOf(64_000_000))
  const small = await store.put(text('urgent'))
  const [channel, remote] = memoryChannels()
  openCasLink({ channel, clock: systemClock(), log }, { store })
  await remote.send(encodeCasMessage({ type: 'hello', v: 1, features: [] }))
  const get = (id: number, { digest, size }: BlobRef, offset: number, length: number): void =>
    void remote.send(
      encodeCasMessage({ type: 'get', id, items: [{ digest, size, offset, length }] }),
    )
  for (let id = 0; id < 60; id++) get(id, big, id * 1_000_000, 1_000_000)
  const next = async (): Promise<ReturnType<typeof decodeCasFrame>> =>
    decodeCasFrame((await remote.receive()) ?? assert.fail())
  for (let frames = 0; frames < 5; frames++) await next()
  get(60, small, 0, small.size)
  // What is read ahead, and what the channel holds.
  const aheadMax = 2 + Math.ceil((1024 * 1024) / (128 * 1024))
  const waited: number[] = []
  for (let isThere = false; !isThere;) {
    const message = await next()
    assert(message?.type === 'data')
    isThere = message.pieces.some(({ id }) => id === 60)
    waited.push(...message.pieces.map(({ id }) => id))
  }
  assert(waited.length <= aheadMax, `after ${waited.length} pieces`)
  // The parts of one blob come in order.
  const inOrder = waited.filter((id) => id < 60)
  assert.deepEqual(
    inOrder,
    inOrder.toSorted((a, b) => a - b),
  )
  channel.close()
})

test('cas-link: a reader that stops holds up nobody and no memory', async () => {
  const store = openMemoryBlobStore()
  const big = await store.put(bytesOf(64_000_000))
  const small = await store.put(text('other'))
  using link = pair({ store })
  const pieces = await link.asker.source.fetch(big, { offsetBytes: 0, signal: never })
  for (let turn = 0; turn < 1000; turn++) await turnOver()
  assert(
    link.answererChannel.sent.bytes < 5 * 1024 * 1024,
    `${link.answererChannel.sent.bytes} bytes sent unread`,
  )
  assert.deepEqual(await fetchAll(link.asker, small), text('other'))
  assert.equal((await readAll(pieces))?.byteLength, 64_000_000)
})

test('cas-link: cancelling stops the bytes', async () => {
  const store = openMemoryBlobStore()
  const big = await store.put(bytesOf(64_000_000))
  using link = pair({ store })
  const controller = new AbortController()
  const pieces = await link.asker.source.fetch(big, { offsetBytes: 0, signal: controller.signal })
  controller.abort(new Error('enough'))
  await assert.rejects(readAll(pieces), /enough/)
  for (const _ of Array.from({ length: 100 })) await turnOver()
  assert(link.answererChannel.sent.bytes < 5 * 1024 * 1024)
  // Leaving the loop is cancelling too, and gives all room back: sixty times more than there is.
  for (let round = 0; round < 60; round++)
    for await (const _ of (await link.asker.source.fetch(big, { offsetBytes: 0, signal: never })) ??
      [])
      break
  assert((await fetchAll(link.asker, big))?.byteLength === 64_000_000)
})

test('cas-link: an evicted blob ends its request only', async () => {
  const store = openMemoryBlobStore()
  const big = await store.put(bytesOf(20_000_000))
  const small = await store.put(text('stays'))
  using link = pair({ store })
  assert.deepEqual(await link.asker.source.has?.([big.digest], { signal: never }), [true])
  const pieces =
    (await link.asker.source.fetch(big, { offsetBytes: 0, signal: never })) ?? assert.fail()
  await store.delete(big.digest)
  await assert.rejects(readAll(pieces), { name: 'SourceError', reason: 'failed' })
  assert.equal(await fetchAll(link.asker, big), undefined)
  assert.deepEqual(await fetchAll(link.asker, small), text('stays'))
})

test('cas-link: an offer is fetched from here', async () => {
  const store = openMemoryBlobStore()
  const other = openMemoryBlobStore()
  const refs = [await store.put(bytesOf(100)), await store.put(bytesOf(3_000_000))]
  using link = pair(
    {
      store: other,
      async onOffer(offered, source, signal) {
        for (const ref of await other.missing(offered))
          await other.put(
            (await source.fetch(ref, { offsetBytes: 0, signal })) ?? assert.fail(),
            ref,
          )
      },
    },
    { store },
  )
  await link.asker.offer(refs, { signal: never })
  assert.deepEqual(await other.missing(refs), [])
  await assert.rejects(link.answerer.offer(refs, { signal: never }), {
    name: 'SourceError',
    message: /not taken here/,
  })
  link.asker.close()
  await assert.rejects(link.asker.offer(refs, { signal: never }), { reason: 'failed' })
})

test('cas-link: a peer that dies fails what is open, and what comes later', async () => {
  const store = openMemoryBlobStore()
  const big = await store.put(bytesOf(20_000_000))
  using link = pair({ store })
  const pieces = await link.asker.source.fetch(big, { offsetBytes: 0, signal: never })
  link.answererChannel.close()
  await assert.rejects(readAll(pieces), { reason: 'failed' })
  await assert.rejects(fetchAll(link.asker, big), { reason: 'failed' })
  await assert.rejects(link.asker.source.has?.([big.digest], { signal: never }) ?? assert.fail(), {
    reason: 'failed',
  })
  await link.asker.closed
  await link.answerer.closed
})

test('cas-link: a silent peer stalls requests, not for ever', async () => {
  const clock = new StepClock()
  const { link } = await against(clock)
  const ref = refOf(text('x'))
  const requests: Promise<unknown>[] = [
    fetchAll(link, ref),
    toArray(link.source.fetchMany?.([ref], { signal: never }) ?? assert.fail()),
    link.source.has?.([ref.digest], { signal: never }) ?? assert.fail(),
    link.offer([ref], { signal: never }),
  ]
  for (const request of requests) request.catch(() => undefined)
  for (const request of requests)
    await assert.rejects(clock.run(request, 500), { name: 'SourceError', reason: 'stalled' })
  assert(clock.nowMs() <= 20_000)
})

test('cas-link: what was not asked for is refused', async () => {
  const ref = refOf(bytesOf(1000))
  const lies = [
    { item: 0, offset: 1, isLast: false, bytes: bytesOf(10) },
    { item: 0, offset: 0, isLast: false, bytes: bytesOf(2000) },
    { item: 0, offset: 0, isLast: true, bytes: bytesOf(999) },
    { item: 0, offset: 0, isLast: false, bytes: bytesOf(0) },
    { item: 7, offset: 0, isLast: true, bytes: bytesOf(1000) },
  ]
  for (const lie of lies) {
    const { link, remote, next } = await against(systemClock())
    const fetching = fetchAll(link, ref)
    const get = await next()
    assert(get?.type === 'get')
    await remote.send(encodeData([{ id: get.id, ...lie }]))
    await assert.rejects(fetching, { name: 'SourceError', reason: 'wrong' })
    // The link lives on.
    const again = fetchAll(link, ref)
    for (let message = await next(); ; message = await next())
      if (message?.type === 'get') {
        await remote.send(
          encodeData([{ id: message.id, item: 0, offset: 0, isLast: true, bytes: bytesOf(1000) }]),
        )
        break
      }
    assert.deepEqual(await again, bytesOf(1000))
    link.close()
  }
})

test('cas-link: frames that are none end the link', async () => {
  const frames = [
    Buffer.alloc(0),
    Buffer.of(4, 0xff),
    Buffer.of(5, 1, 2, 3),
    Buffer.concat([Buffer.of(5), Buffer.alloc(15), Buffer.of(0xff, 0xff, 0xff, 0xff)]),
    Buffer.alloc(1024 * 1024 + 1, 4),
  ]
  for (const frame of frames) {
    const { link, remote } = await against(systemClock())
    const fetching = fetchAll(link, refOf(text('x')))
    await remote.send(frame)
    await assert.rejects(fetching, { name: 'SourceError', reason: 'wrong' })
    await link.closed
  }
  const { link, remote } = await against(systemClock())
  await remote.send(Buffer.of(200, 1, 2, 3)) // of a later version: ignored
  await remote.send(encodeCasMessage({ type: 'ping', id: 7 }))
  link.close()
})

test('cas-link: a peer that asks without end and reads nothing is cut off', async () => {
  const [channel, remote] = memoryChannels()
  const link = openCasLink({ channel, clock: systemClock(), log }, { store: openMemoryBlobStore() })
  remote.send(encodeCasMessage({ type: 'hello', v: 1, features: [] }))
  const { digest } = refOf(text('x'))
  for (let id = 0; id < 200; id++)
    remote
      .send(
        encodeCasMessage({ type: 'get', id, items: [{ digest, size: 1, offset: 0, length: 1 }] }),
      )
      .catch(() => undefined)
  await link.closed
})

test('cas-link: many at once share the room', async () => {
  const store = openMemoryBlobStore()
  const refs = []
  for (let at = 0; at < 40; at++) refs.push(await store.put(bytesOf(3_000_000, at)))
  using link = pair({ store })
  const got = await Promise.all(refs.map((ref) => fetchAll(link.asker, ref)))
  for (const [at, bytes] of got.entries()) assert.deepEqual(bytes && refOf(bytes), refs[at])
})
