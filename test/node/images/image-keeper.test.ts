/** Images are brought to store nodes and stay there, whoever goes, comes back or fails in between. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { holdImages } from '../../../src/node/images/hold-images.ts'
import { ImageKeeper } from '../../../src/node/images/image-keeper.ts'
import { Images } from '../../../src/scheduler/images.ts'
import { Pins } from '../../../src/store/retention/pins.ts'
import { decodeObject, encodeObject } from '../../../src/wire/cbor.ts'
import { sha256, type Digest } from '../../../src/wire/digest.ts'
import type { PeerRecord } from '../../../src/wire/peer-record.ts'
import { blobOf } from '../../../src/wire/tree.ts'
import { Call } from '../../../src/wire/work-messages.ts'
import { peerOf } from '../../scheduler/samples.ts'
import { log, never, StepClock } from '../../store/support.ts'

const root = mkdtempSync(join(tmpdir(), 'mesh-keeper-'))
after(() => rmSync(root, { recursive: true }))
let count = 0

const OWNER = peerOf('owner')

interface Store {
  readonly record: PeerRecord
  readonly pins: Pins
  readonly has: Set<Digest>
}

/** An owner, and store nodes with pins on the disk. */
class Mesh {
  readonly clock = new StepClock()
  readonly images = new Images()
  readonly stores = new Map<string, Store>()
  readonly providers = new Map<Digest, string[]>()
  copies = 0
  canCopy = true
  canHold = true
  #version = 0
  keeper = this.open()

  open(): ImageKeeper {
    return new ImageKeeper({
      clock: this.clock,
      log,
      images: this.images,
      selfId: OWNER,
      stores: () => [...this.stores.values()].map(({ record }) => record),
      recordOf: (peerId) => this.stores.get(peerId)?.record,
      providersOf: (digest) => this.providers.get(digest) ?? [],
      onKept: (entry, peerId) => {
        const digest = blobOf(entry)?.digest
        assert(digest !== undefined)
        this.providers.set(digest, [...(this.providers.get(digest) ?? []), peerId])
      },
      carry: async (peerId, call) => {
        this.copies += 1
        assert.equal(call.method, 'pull')
        if (!this.canCopy) return { ok: false, bytes: 0, message: 'the line is cut' }
        for (const entry of call.entries) {
          const digest = blobOf(entry)?.digest
          if (digest !== undefined) this.stores.get(peerId)?.has.add(digest)
        }
        return { ok: true, bytes: 1, message: '' }
      },
      hold: async (peerId, hold) => {
        const store = this.stores.get(peerId)
        if (store === undefined || !this.canHold) throw new Error('not connected')
        const arrived = decodeObject(Call, encodeObject(Call, hold), 'call')
        assert(arrived.method === 'images')
        return holdImages({ clock: this.clock, pins: store.pins }, arrived)
      },
    })
  }

  start(...names: readonly string[]): void {
    for (const name of names) {
      const pins = new Pins(
        { log, onAdded: () => undefined },
        { directory: join(root, String((count += 1))) },
      )
      const peerId = peerOf(name)
      const record = { peerId, name, roles: ['store' as const], addresses: [], http: null }
      this.stores.set(peerId, { record, pins, has: new Set() })
    }
  }

  store(name: string): Store {
    const store = this.stores.get(peerOf(name))
    assert(store !== undefined)
    return store
  }

  name(name: string, content = name): Digest {
    const digest = sha256(Buffer.from(content))
    this.images.evolve({
      type: 'image-set',
      name,
      digest,
      size: 10,
      system: 'x86_64-linux',
      label: '',
      sizeBytes: 10,
      fileCount: 1,
      from: { peerId: peerOf('dev'), name: 'dev' },
      version: (this.#version += 1),
      by: 'x',
      atWall: 0,
    })
    return digest
  }

  keepersOf(digest: Digest): string[] {
    return [...this.stores.values()]
      .filter(({ pins, has }) => pins.find(digest) !== undefined && has.has(digest))
      .map(({ record }) => record.name)
      .toSorted()
  }
}

test('image-keeper: each image goes to two store nodes, which pin it; once is enough', async () => {
  const mesh = new Mesh()
  mesh.start('s1', 's2', 's3', 's4')
  const digests = ['a', 'b', 'c', 'd', 'e', 'f'].map((name) => mesh.name(name))
  await mesh.keeper.round(never)
  for (const digest of digests) {
    assert.equal(mesh.keepersOf(digest).length, 2)
    assert.deepEqual([...mesh.keeper.of(digest).stores].toSorted(), mesh.keepersOf(digest))
  }
  assert.equal(mesh.copies, 12)
  await mesh.keeper.round(never)
  assert.equal(mesh.copies, 12)
  // Somebody takes a pin away: it is noticed, though not at once.
  const [first] = digests
  assert(first !== undefined)
  mesh.store(mesh.keepersOf(first)[0] ?? '').pins.remove(first)
  for (let round = 0; round < 10; round++) await mesh.keeper.round(never)
  assert.equal(mesh.keepersOf(first).length, 2)
  // A new owner, or one that was restarted, asks once more, and nothing moves.
  const before = digests.map((digest) => mesh.keepersOf(digest))
  mesh.keeper = mesh.open()
  await mesh.keeper.round(never)
  assert.deepEqual(
    digests.map((digest) => mesh.keepersOf(digest)),
    before,
  )
})

test('image-keeper: a name that means another tree lets the old one go; pins of people stay', async () => {
  const mesh = new Mesh()
  mesh.start('s1')
  const { pins } = mesh.store('s1')
  const old = mesh.name('cc', 'old')
  const mine = sha256(Buffer.from('mine'))
  pins.add({ digest: mine, size: 1, kind: 'file', label: 'release', atWall: '' })
  const other = sha256(Buffer.from('other owner'))
  const label = `image x for ${peerOf('elsewhere')}`
  pins.add({ digest: other, size: 1, kind: 'dir', label, atWall: '' })
  await mesh.keeper.round(never)
  assert.ok(pins.find(old)?.label.startsWith('image cc for '))
  const fresh = mesh.name('cc', 'new')
  await mesh.keeper.round(never)
  assert.deepEqual(
    pins
      .list()
      .map(({ digest }) => digest)
      .toSorted(),
    [mine, other, fresh].toSorted(),
  )
  mesh.images.evolve({ type: 'image-removed', name: 'cc', by: '', atWall: 0 })
  await mesh.keeper.round(never)
  assert.equal(pins.find(fresh), undefined)
  assert.deepEqual(mesh.keeper.of(fresh).stores, [])
})

test('image-keeper: what cannot be copied or kept is told, and tried again', async () => {
  const mesh = new Mesh()
  const digest = mesh.name('cc')
  await mesh.keeper.round(never)
  assert.match(mesh.keeper.of(digest).problem ?? '', /no node with the role "store"/)
  mesh.start('s1')
  mesh.canCopy = false
  await mesh.keeper.round(never)
  assert.match(
    mesh.keeper.of(digest).problem ?? '',
    /not copied to s1: pull at s1: the line is cut/,
  )
  mesh.canHold = false
  mesh.name('another')
  await mesh.keeper.round(never)
  assert.match(mesh.keeper.of(digest).problem ?? '', /s1 does not keep it: not connected/)
  mesh.canCopy = true
  mesh.canHold = true
  await mesh.keeper.round(never)
  assert.deepEqual(mesh.keeper.of(digest), { stores: ['s1'], problem: undefined })
})

test('image-keeper: a store node that goes is replaced; when it is back it lets go what it need not keep', async () => {
  const mesh = new Mesh()
  mesh.start('s1', 's2', 's3')
  const digest = mesh.name('cc')
  await mesh.keeper.round(never)
  const [gone = ''] = mesh.keepersOf(digest)
  const store = mesh.store(gone)
  mesh.stores.delete(peerOf(gone))
  await mesh.keeper.round(never)
  assert.equal(mesh.keepersOf(digest).length, 2)
  mesh.stores.set(peerOf(gone), store)
  await mesh.keeper.round(never)
  assert.equal(mesh.keepersOf(digest).length, 2)
})

test('image-keeper: rounds come by themselves after a change and each minute, one at a time', async () => {
  const mesh = new Mesh()
  mesh.start('s1')
  mesh.name('a')
  const { promise, resolve } = Promise.withResolvers<void>()
  let rounds = 0
  mesh.keeper.round = async () => {
    rounds += 1
    await promise
  }
  mesh.keeper.beat(never)
  mesh.keeper.changed(never)
  mesh.keeper.changed(never)
  assert.equal(rounds, 1)
  resolve()
  for (let turn = 0; turn < 10; turn++) await new Promise(setImmediate)
  mesh.keeper.beat(never)
  assert.equal(rounds, 2)
  mesh.clock.step(60_000)
  mesh.keeper.beat(never)
  assert.equal(rounds, 3)
})
