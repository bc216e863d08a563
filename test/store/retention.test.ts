/** What is kept: pins on the disk, leases in memory, and all that is reached from them. */
import assert from 'node:assert/strict'
import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { Leases } from '../../src/store/retention/leases.ts'
import { SetDigest } from '../../src/wire/set-digest.ts'
import type { KeptEntry } from '../../src/store/retention/kept.ts'
import { Marker, Marks } from '../../src/store/retention/marks.ts'
import { Pins, type Pin } from '../../src/store/retention/pins.ts'
import { sha256, type Digest } from '../../src/wire/digest.ts'
import { encodeTree, type Tree } from '../../src/wire/tree.ts'
import { refOf } from '../contract/blob-store.ts'
import { log, StepClock, temporaryDirectory } from './support.ts'

const digestOf = (name: string | number): Digest => sha256(String(name))
const pinOf = (name: string, label = name): Pin => ({
  digest: digestOf(name),
  size: 1,
  kind: 'file',
  label,
  atWall: '2023-11-14T22:13:20.000Z',
})
const file = (name: string | number): KeptEntry => ({
  digest: digestOf(name),
  size: 1,
  kind: 'file',
})
const held = (leases: Leases): Digest[] =>
  [...leases.entries()].map(({ digest }) => digest).toSorted()
const sorted = (...names: (string | number)[]): Digest[] => names.map(digestOf).toSorted()

function setDigestOf(members: Iterable<Digest>): Digest {
  const set = new SetDigest()
  for (const digest of new Set(members)) set.include(digest)
  return set.value.digest
}

test('pins: are there after a restart, one per digest', () => {
  using directory = temporaryDirectory()
  const options = { directory: join(directory.path, 'pins') }
  const added: Digest[] = []
  const deps = { log, onAdded: ({ digest }: KeptEntry) => void added.push(digest) }
  const pins = new Pins(deps, options)
  pins.add(pinOf('a'))
  pins.add(pinOf('b'))
  pins.add(pinOf('a', 'again'))
  assert.equal(pins.remove(digestOf('b')), true)
  assert.equal(pins.remove(digestOf('b')), false)
  assert.deepEqual(added, [digestOf('a'), digestOf('b'), digestOf('a')])
  writeFileSync(join(options.directory, `${digestOf('c')}.json.new`), '{')
  const again = new Pins(deps, options)
  assert.deepEqual(again.list(), [pinOf('a', 'again')])
  assert.deepEqual(readdirSync(options.directory), [`${digestOf('a')}.json`])
})

test('pins: a damaged file still pins what it is named after', () => {
  using directory = temporaryDirectory()
  const options = { directory: directory.path }
  const { label, ...rest } = pinOf('x')
  for (const [name, content] of Object.entries({
    empty: '',
    cut: '{"digest":',
    other: JSON.stringify({ ...rest, label }),
    poor: JSON.stringify(rest),
  }))
    writeFileSync(join(directory.path, `${digestOf(name)}.json`), content)
  writeFileSync(join(directory.path, 'README'), '')
  const pins = new Pins({ log, onAdded: () => undefined }, options)
  assert(pins.list().every(({ kind }) => kind === 'dir'))
  assert.deepEqual(
    new Set(pins.list().map(({ digest }) => digest)),
    new Set(sorted('empty', 'cut', 'other', 'poor')),
  )
  assert(existsSync(join(directory.path, 'README')))
})

test('leases: end on the monotonic clock, whatever the wall clock does', () => {
  class JumpingClock extends StepClock {
    jumpMs = 0
    override wallMs(): number {
      return super.wallMs() + this.jumpMs
    }
  }
  const clock = new JumpingClock()
  const leases = new Leases({ clock, onAdded: () => undefined })
  assert(leases.hold('owner', [file('a')], 10_000))
  clock.jumpMs = 10 ** 15
  assert.deepEqual(held(leases), sorted('a'))
  clock.jumpMs = -(10 ** 15)
  clock.step(9_999)
  assert.deepEqual(held(leases), sorted('a'))
  clock.step(1)
  assert.deepEqual(held(leases), [])
  assert.equal(leases.renew('owner', setDigestOf([digestOf('a')]), 1), false)
})

test('leases: are replaced, changed, renewed by the digest of the set, and dropped', () => {
  const clock = new StepClock()
  const leases = new Leases({ clock, onAdded: () => undefined })
  leases.hold('owner', [file('a'), file('b'), file('b')], 1_000)
  leases.hold('other', [file('a')], 5_000)
  leases.change(
    'owner',
    { add: [file('c'), file('a')], remove: [digestOf('b'), digestOf('x')] },
    1_000,
  )
  assert.equal(leases.renew('owner', setDigestOf([digestOf('c'), digestOf('a')]), 3_000), true)
  assert.equal(leases.renew('owner', setDigestOf([digestOf('a')]), 9_000), false)
  assert.deepEqual(held(leases), sorted('a', 'a', 'c'))
  clock.step(2_999)
  assert.deepEqual(leases.stats(), { holderCount: 2, entryCount: 3 })
  clock.step(1)
  assert.deepEqual(held(leases), sorted('a'))
  leases.drop('other')
  leases.change('new', { add: [file('n')], remove: [] }, 1_000)
  {
    using _ = leases.use([file('used')])
    clock.step(10 ** 9)
    assert.deepEqual(held(leases), sorted('used'))
  }
  assert.deepEqual(leases.stats(), { holderCount: 0, entryCount: 0 })
})

test('leases: a set has the same digest however it came about', () => {
  const clock = new StepClock()
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.boolean(), fc.nat({ max: 20 })), { maxLength: 50 }),
      (changes) => {
        const leases = new Leases({ clock, onAdded: () => undefined })
        const model = new Set<Digest>()
        leases.hold('owner', [], 1_000)
        for (const [isAdded, at] of changes) {
          if (isAdded) model.add(digestOf(at))
          else model.delete(digestOf(at))
          const change = isAdded
            ? { add: [file(at)], remove: [] }
            : { add: [], remove: [digestOf(at)] }
          leases.change('owner', change, 1_000)
        }
        assert(leases.renew('owner', setDigestOf([...model].toReversed()), 1_000))
        assert.equal(leases.stats().entryCount, model.size)
        assert.equal(leases.renew('owner', setDigestOf([...model, digestOf('x')]), 1_000), false)
      },
    ),
  )
})

test('leases: are refused beyond their bound, and the earlier set stays', () => {
  const clock = new StepClock()
  const leases = new Leases({ clock, onAdded: () => undefined }, { entriesMax: 3 })
  assert.equal(leases.hold('a', [file(1), file(2)], 1_000), true)
  assert.equal(leases.hold('b', [file(3), file(4)], 1_000), false)
  assert.equal(leases.change('a', { add: [file(3), file(4)], remove: [] }, 1_000), false)
  assert.equal(leases.hold('b', [file(3)], 1_000), true)
  assert.equal(leases.hold('a', [file(5), file(6)], 1_000), true)
  assert.deepEqual(held(leases), sorted(3, 5, 6))
  clock.step(1_000)
  assert.equal(leases.hold('b', [file(7), file(8), file(9)], 1_000), true)
})

test('marks: hold what was added and nothing else, also when they grow', () => {
  const marks = new Marks()
  const names = Array.from({ length: 20_000 }, (_, at) => digestOf(at))
  for (const digest of names) assert.equal(marks.add(digest), true)
  for (const digest of names) assert.equal(marks.add(digest), false)
  assert(names.every((digest) => marks.has(digest)))
  assert.equal(marks.count, 20_000)
  assert(
    !Array.from({ length: 20_000 }, (_, at) => digestOf(-1 - at)).some((one) => marks.has(one)),
  )
})

test('marks: a directory is marked with all that is in it, as far as it is there', async () => {
  const blobs = new Map<Digest, Uint8Array>()
  const tree = (entries: Tree): Digest => {
    const bytes = encodeTree(entries)
    blobs.set(sha256(bytes), bytes)
    return sha256(bytes)
  }
  const dir = (digest: Digest) => ({ kind: 'dir', digest, size: 1 }) as const
  const leaf = (name: string) =>
    ({ kind: 'file', digest: digestOf(name), size: 1, executable: false }) as const
  const inner = tree([{ name: 'leaf', entry: leaf('leaf') }])
  const root = tree([
    { name: 'a', entry: dir(inner) },
    { name: 'b', entry: dir(inner) },
    { name: 'gone', entry: dir(digestOf('gone')) },
    { name: 'link', entry: { kind: 'symlink', target: 'a' } },
    { name: 'tool', entry: leaf('tool') },
    { name: 'wrong', entry: dir(digestOf('no tree')) },
  ])
  blobs.set(digestOf('no tree'), Buffer.from('no tree'))
  const read: Digest[] = []
  const marker = new Marker({
    async read(digest) {
      read.push(digest)
      return blobs.get(digest)
    },
  })
  // As a file it has nothing in it; as a directory it is walked in spite of that.
  await marker.mark({ digest: root, kind: 'file' })
  assert.deepEqual(read, [])
  await marker.mark({ digest: root, kind: 'dir' })
  await marker.mark({ digest: inner, kind: 'dir' })
  assert.equal(read.length, 4)
  assert.deepEqual(new Set(read), new Set([root, inner, digestOf('gone'), digestOf('no tree')]))
  for (const digest of [root, inner, ...sorted('leaf', 'gone', 'tool', 'no tree')])
    assert(marker.marks.has(digest))
  assert.equal(marker.marks.count, 6)
  assert.equal(marker.marks.has(refOf(Buffer.from('other')).digest), false)
})
