/** Images in derivation files: what may be written, what it becomes, and where mistakes are told. */
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { MeshError } from '../../src/base/errors.ts'
import { defineGraph, path } from '../../src/cli/api.ts'
import { ingestPlan } from '../../src/cli/graph-file/ingest-plan.ts'
import { parseJsonText } from '../../src/cli/graph-file/json.ts'
import type { Located } from '../../src/cli/graph-file/located.ts'
import { parseDescription } from '../../src/cli/graph-file/parse-description.ts'
import { outputsUsedBy, planGraph, type Plan } from '../../src/cli/graph-file/plan.ts'
import { parseToml } from '../../src/cli/graph-file/toml.ts'
import { Upload } from '../../src/cli/upload.ts'
import type { Derivation } from '../../src/wire/derivation.ts'
import { cidOf, sha256 } from '../../src/wire/digest.ts'
import type { ImageView } from '../../src/wire/images.ts'

const directory = mkdtempSync(join(tmpdir(), 'mesh-image-graph-'))
after(() => rmSync(directory, { recursive: true }))
mkdirSync(join(directory, 'rootfs/dev'), { recursive: true })
writeFileSync(join(directory, 'rootfs/dev/null'), 'no device')
writeFileSync(join(directory, 'archive.tar'), 'no archive')

const SYSTEMS: Readonly<Record<string, string>> = {
  'debian-12': 'x86_64-linux',
  'debian-12-arm': 'aarch64-linux',
  tools: 'any',
}
const digestOf = (name: string): ImageView['digest'] => sha256(Buffer.from(name))
const named = (name: string): { kind: string; entry: unknown } => ({
  kind: 'entry',
  entry: { kind: 'dir', digest: digestOf(name), size: 100 },
})

const locatedOf = (text: string, language: 'toml' | 'json'): Located =>
  language === 'json' ? parseJsonText('f.mesh.json', text) : parseToml('f.mesh.toml', text)

function planOf(text: string, language: 'toml' | 'json' = 'toml'): Plan {
  const located = locatedOf(text, language)
  return planGraph(located, parseDescription(located), { attributes: [], system: 'x86_64-linux' })
}

async function derivationsOf(
  text: string,
  language: 'toml' | 'json' = 'toml',
): Promise<readonly Derivation[]> {
  const located = locatedOf(text, language)
  let asks = 0
  const graph = await ingestPlan(
    {
      located,
      directory,
      upload: new Upload(),
      entryOfCid: async () => ({ kind: 'dir', digest: digestOf('stored'), size: 5 }),
      async imageOf(name) {
        asks += 1
        const system = SYSTEMS[name]
        if (system === undefined)
          throw new MeshError('MESH0601', `there is no image ${JSON.stringify(name)}`, {
            hints: ['did you mean debian-12?'],
          })
        const digest = digestOf(name)
        return {
          ...{ name, digest, size: 100, cid: cidOf(digest, 'object'), system, label: '' },
          ...{ sizeBytes: 0, fileCount: 0, version: 1, by: '', at: '', stores: [] },
          from: { peerId: '', name: '' },
        }
      },
    },
    planOf(text, language),
    'f.mesh.toml',
  )
  assert.ok(asks <= Object.keys(SYSTEMS).length, 'a name was asked for twice')
  return graph.derivations
}

const one = (lines: string): string => `mesh = 1\n[derivation.a]\nbuilder = "/bin/sh"\n${lines}\n`
async function only(text: string): Promise<Derivation> {
  const [first] = await derivationsOf(text)
  assert(first !== undefined)
  return first
}

test('image-graph: a name becomes the tree that it means now', async () => {
  const { image, sealed } = await only(one('needs.image = "debian-12"'))
  assert.deepEqual(image, [named('debian-12')])
  assert.equal(sealed, true)
})

test('image-graph: layers keep their order; a directory is taken in without its /dev', async () => {
  const cid = cidOf(digestOf('stored'), 'object')
  const { image = [] } = await only(
    one(`needs.image = ["tools", { path = "rootfs" }, { cid = "${cid}" }, "debian-12"]`),
  )
  assert.deepEqual(image[0], named('tools'))
  assert.deepEqual(image[3], named('debian-12'))
  assert.deepEqual(image[2], {
    kind: 'entry',
    entry: { kind: 'dir', digest: digestOf('stored'), size: 5 },
  })
  const empty = await only(one('needs.image = { path = "rootfs" }'))
  assert.deepEqual(image[1], empty.image?.[0])
})

const BUILT = `mesh = 1
[derivation.rootfs]
builder = "/bin/sh"
[derivation.a]
builder = "/bin/sh"
needs.image = { output = "rootfs" }
[[derivation.a.when]]
host = "aarch64-linux"
image = ["tools", { output = "rootfs.out" }]
`
test('image-graph: what another derivation makes is an image; it is built before', async () => {
  const plan = planOf(BUILT)
  assert.deepEqual(
    plan.derivations.map(({ name }) => name),
    ['rootfs', 'a'],
  )
  assert.deepEqual(plan.wanted, ['a'])
  assert.deepEqual(
    plan.derivations.map((derivation) => outputsUsedBy(derivation).length),
    [0, 2],
  )
  const [, a] = await derivationsOf(BUILT)
  assert.deepEqual(a?.image, [{ kind: 'output', derivation: 'rootfs', output: 'out' }])
  assert.deepEqual(a?.variants[0]?.image?.[1], a?.image?.[0])
})

test('image-graph: a variant may have its own image, or none; machines tell emulation apart', async () => {
  const { image, variants } = await only(
    one(`system = "aarch64-linux"
needs.image = "debian-12-arm"
[[derivation.a.when]]
host = "x86_64-linux"
image = "debian-12"
[[derivation.a.when]]
host = "aarch64-linux"
machine = "x86_64-linux"
args = ["slowly"]
[[derivation.a.when]]
host = "riscv64-linux"
image = []`),
  )
  assert.deepEqual(image, [named('debian-12-arm')])
  assert.deepEqual(
    variants.map(({ host, machine, image: own }) => [host, machine, own]),
    [
      ['x86_64-linux', undefined, [named('debian-12')]],
      ['aarch64-linux', 'x86_64-linux', undefined],
      ['riscv64-linux', undefined, []],
    ],
  )
})

test('image-graph: what is for any system runs where the programs of its image do', async () => {
  const { hosts } = await only(one('system = "any"\nneeds.image = ["tools", "debian-12-arm"]'))
  assert.deepEqual(hosts, ['aarch64-linux'])
  assert.deepEqual((await only(one('system = "any"\nneeds.image = "tools"'))).hosts, [])
})

test('image-graph: isolation says how sealed it is; an empty list takes the image of the defaults away', async () => {
  assert.equal((await only(one('needs.isolation = "host"'))).sealed, false)
  assert.equal((await only(one('needs.isolation = "namespace"'))).sealed, true)
  assert.equal(
    (await only(one('needs.isolation = "image"\nneeds.image = "debian-12"'))).sealed,
    true,
  )
  const [a] = await derivationsOf(
    `${one('needs.image = []')}[defaults]\nneeds.image = "debian-12"\n`,
  )
  assert.equal(a?.image, undefined)
  const [b] = await derivationsOf(`${one('')}[defaults]\nneeds.image = "debian-12"\n`)
  assert.deepEqual(b?.image, [named('debian-12')])
})

const BAD: readonly (readonly [what: string, lines: string, where: string, message: RegExp])[] = [
  ['no name of an image', 'needs.image = "Debian 12"', '4:15', /name of an image has 1-64/],
  ['a number', 'needs.image = 12', '4:15', /expected the name of an image/],
  ['a key too many', 'needs.image = { path = "x", cid = "y" }', '4:15', /expected the name of/],
  ['a directory that is not there', 'needs.image = { path = "gone" }', '4:24', /does not exist/],
  ['an archive', 'needs.image = { path = "archive.tar" }', '4:24', /no directory/],
  [
    'an image for other machines',
    'needs.image = "debian-12-arm"',
    '4:15',
    /debian-12-arm is for aarch64-linux, and a may be built on x86_64-linux/,
  ],
  [
    'an image for other machines in a variant',
    '[[derivation.a.when]]\nhost = "aarch64-linux"\nimage = "debian-12"',
    '6:9',
    /debian-12 is for x86_64-linux, and a may be built on aarch64-linux/,
  ],
  ['an isolation of no kind', 'needs.isolation = "vm"', '4:19', /"host" or "namespace" or "image"/],
  [
    'an image without walls',
    'needs.isolation = "host"\nneeds.image = "debian-12"',
    '4:7',
    /takes its place/,
  ],
  ['walls on the host', 'sealed = true\nneeds.isolation = "host"', '5:7', /asks for some/],
  ['an image that is missing', 'needs.isolation = "image"', '4:7', /needs an image/],
  ['an unsealed image', 'sealed = false\nneeds.image = "debian-12"', '5:7', /is sealed/],
  ['an unsealed namespace', 'sealed = false\nneeds.isolation = "namespace"', '5:7', /is sealed/],
  [
    'two variants of one kind',
    '[[derivation.a.when]]\nhost = "x86_64-linux"\nmachine = "aarch64-linux"\n[[derivation.a.when]]\nhost = "x86_64-linux"\nmachine = "aarch64-linux"',
    '4:16',
    /two blocks of "when" are for the host "x86_64-linux" on machines of aarch64-linux/,
  ],
]
for (const [what, lines, where, message] of BAD)
  test(`image-graph: ${what} is refused at its place`, async () => {
    await assert.rejects(derivationsOf(one(lines)), (error) => {
      assert.ok(error instanceof MeshError, String(error))
      assert.match(error.message, message)
      assert.equal(error.where, `f.mesh.toml:${where}`, error.message)
      return true
    })
  })

test('image-graph: generators say it with names, paths, CIDs and outputs', async () => {
  const description = defineGraph((graph) => {
    const rootfs = graph.derivation('rootfs', { builder: '/bin/sh', args: [] })
    graph.derivation('a', {
      builder: '/bin/sh',
      needs: { image: [rootfs.out, path('rootfs'), 'debian-12'], isolation: 'image' },
      when: [{ host: 'aarch64-linux', machine: 'x86_64-linux', image: 'debian-12-arm' }],
    })
  })
  const [, a] = await derivationsOf(JSON.stringify(description), 'json')
  assert.deepEqual(
    a?.image?.map((layer) => layer.kind),
    ['output', 'entry', 'entry'],
  )
  assert.deepEqual(a?.variants[0]?.image, [named('debian-12-arm')])
  assert.equal(a?.variants[0]?.machine, 'x86_64-linux')
})
