/** Derivation files: what they become, and where exactly a bad one is bad. */
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { MeshError } from '../../src/base/errors.ts'
import { parseJsonText } from '../../src/cli/graph-file/json.ts'
import { ingestPlan } from '../../src/cli/graph-file/ingest-plan.ts'
import type { Located } from '../../src/cli/graph-file/located.ts'
import { parseDescription } from '../../src/cli/graph-file/parse-description.ts'
import { planGraph, type Plan } from '../../src/cli/graph-file/plan.ts'
import { parseToml } from '../../src/cli/graph-file/toml.ts'
import { Upload } from '../../src/cli/upload.ts'
import { GraphJson, type Graph } from '../../src/wire/derivation.ts'
import { sha256 } from '../../src/wire/digest.ts'
import { encodeTree } from '../../src/wire/tree.ts'

const directory = mkdtempSync(join(tmpdir(), 'mesh-graph-'))
after(() => rmSync(directory, { recursive: true }))
const write = (name: string, text: string): void => {
  mkdirSync(join(directory, name, '..'), { recursive: true })
  writeFileSync(join(directory, name), text)
}
write('a.txt', 'a')
write('tree/x.c', 'x')
write('tree/x.h', 'h')
write('tree/deep/y.h', 'h')
write('tree/x.c.orig', 'old')
symlinkSync('a.txt', join(directory, 'link'))

const plan = (located: Located, attributes: readonly string[] = []): Plan =>
  planGraph(located, parseDescription(located), { attributes, system: 'x86_64-linux' })
const planToml = (text: string, attributes: readonly string[] = []): Plan =>
  plan(parseToml('f.mesh.toml', text), attributes)

async function graphOf(text: string, attributes: readonly string[] = []): Promise<Graph> {
  const located = parseToml('f.mesh.toml', text)
  const upload = new Upload()
  return ingestPlan(
    {
      located,
      directory,
      upload,
      entryOfCid: async () => ({
        kind: 'file',
        digest: sha256('stored'),
        size: 6,
        executable: false,
      }),
      async imageOf(name) {
        throw new MeshError('MESH0601', `there is no image ${JSON.stringify(name)}`)
      },
    },
    plan(located, attributes),
    'f.mesh.toml',
  )
}

/** One derivation `a` with these lines. */
const one = (lines: string): string => `mesh = 1\n[derivation.a]\nbuilder = "/bin/sh"\n${lines}\n`

const BAD: readonly (readonly [
  what: string,
  text: string,
  code: string,
  where: string,
  message: RegExp,
])[] = [
  ['a string without an end', 'mesh = 1\na = "x\n', 'MESH0201', '2:7', /control characters/],
  ['a key that comes twice', 'mesh = 1\nmesh = 2\n', 'MESH0201', '2:1', /redefin|already/i],
  [
    'no version',
    '[derivation.a]\nbuilder = "x"\n',
    'MESH0203',
    '',
    /the file has no "mesh": expected 1/,
  ],
  [
    'another version',
    'mesh = 2\n',
    'MESH0203',
    '1:8',
    /mesh = 2: expected 1\n1 \| mesh = 2\n {2}\| {8}\^$/,
  ],
  [
    'an unknown key',
    one('requirments = 1'),
    'MESH0202',
    '4:1',
    /unknown key "requirments" in \[derivation\.a\]\n4 \| requirments = 1\n {2}\| \^$/,
  ],
  [
    'an unknown key in a table',
    one('[derivation.a.needs]\n  memroy = "1 GiB"'),
    'MESH0202',
    '5:3',
    /in \[derivation\.a\.needs\]/,
  ],
  [
    'an unknown key in an inline table',
    one('run = { timeout = "1h", max_silent = "1h" }'),
    'MESH0202',
    '4:25',
    /unknown key "max_silent"/,
  ],
  [
    'an unknown key in a when block',
    one('[[derivation.a.when]]\nhost = "x"\n[[derivation.a.when]]\nhost = "y"\nsytem = "z"'),
    'MESH0202',
    '8:1',
    /in \[derivation\.a\.when\.1\]/,
  ],
  ['an unknown key at the top', 'mesh = 1\nderivations = 1\n', 'MESH0202', '2:1', /at the top/],
  [
    'a bad size',
    one('needs.memory = "8 Gib"'),
    'MESH0203',
    '4:16',
    /derivation\.a\.needs\.memory = "8 Gib": expected a size such as "8 GiB"\n4 \|/,
  ],
  [
    'a bad duration',
    one('run = { timeout = "1 hour" }'),
    'MESH0203',
    '4:19',
    /expected a duration/,
  ],
  [
    'a number for a string',
    one('env = { A = 1 }'),
    'MESH0203',
    '4:13',
    /derivation\.a\.env\.A = 1: expected a string/,
  ],
  [
    'a number in a list',
    one('args = ["a", 1]'),
    'MESH0203',
    '4:14',
    /derivation\.a\.args\.1 = 1: expected a string/,
  ],
  ['a date', one('args = [1979-05-27]'), 'MESH0203', '4:9', /expected a string/],
  [
    'no builder',
    'mesh = 1\n[derivation.a]\n',
    'MESH0203',
    '2:13',
    /\[derivation\.a\] has no "builder"/,
  ],
  ['NUL', one('args = ["a\\u0000b"]'), 'MESH0203', '4:9', /NUL is not allowed/],
  [
    'a bad name of a derivation',
    'mesh = 1\n[derivation.".a"]\nbuilder = "x"\n',
    'MESH0203',
    '2:13',
    /bad name "\.a" in \[derivation\]/,
  ],
  [
    'the name of a source',
    'mesh = 1\n[derivation."sources.a"]\nbuilder = "x"\n',
    'MESH0203',
    '2:13',
    /those of sources/,
  ],
  [
    'a bad name of an input',
    one('inputs."a-b" = { path = "a.txt" }'),
    'MESH0203',
    '4:8',
    /bad name "a-b"/,
  ],
  ['a bad name of an output', one('outputs = ["out", "1x"]'), 'MESH0203', '4:19', /a name has/],
  ['an output twice', one('outputs = ["out", "out"]'), 'MESH0203', '4:11', /named twice/],
  [
    'an input of two kinds',
    one(
      'inputs.x = { path = "a.txt", cid = "bafkreigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi" }',
    ),
    'MESH0203',
    '4:12',
    /only one of path, cid/,
  ],
  [
    'an input of no kind',
    one('inputs.x = { }'),
    'MESH0203',
    '4:12',
    /one of path, cid, output, source, files/,
  ],
  [
    'exclude without path',
    one('inputs.x = { output = "b", exclude = ["x"] }'),
    'MESH0203',
    '4:12',
    /belong to path/,
  ],
  ['a bad CID', one('inputs.x = { cid = "Qm" }'), 'MESH0203', '4:20', /expected a CID/],
  [
    'an input and an output of one name',
    one('inputs.out = { path = "a.txt" }'),
    'MESH0203',
    '4:8',
    /both named "out"/,
  ],
  [
    'a later feature',
    one('run.nice = 2'),
    'MESH0203',
    '4:12',
    /derivation\.a\.run\.nice = 2: this key is not supported yet/,
  ],
  ['too many votes', one('run.verify = 10'), 'MESH0203', '4:14', /expected at most 9/],
  [
    'an unknown image',
    one('needs.image = "debian-12"'),
    'MESH0601',
    '4:15',
    /there is no image "debian-12"/,
  ],
  [
    'too many cpus',
    one('needs.cpus = 5000'),
    'MESH0203',
    '4:14',
    /needs\.cpus = 5000: expected at most 4096/,
  ],
  [
    'min over max',
    one('needs.cpus = { min = 4, max = 2 }'),
    'MESH0203',
    '4:14',
    /min is greater than max/,
  ],
  [
    'two whens for one host',
    one('[[derivation.a.when]]\nhost = "x"\n[[derivation.a.when]]\nhost = "x"'),
    'MESH0203',
    '4:16',
    /two blocks of "when"/,
  ],
  [
    'network said twice',
    one('network = true\nrun.network = false'),
    'MESH0203',
    '5:5',
    /contradict/,
  ],
  [
    'a builtin builder',
    'mesh = 1\n[derivation.a]\nbuilder = "builtin:fetch"\n',
    'MESH0203',
    '3:11',
    /expected a program/,
  ],
  [
    'a bad sha256',
    'mesh = 1\n[sources.s]\nurls = ["https://x/y"]\nsha256 = "abc"\n',
    'MESH0203',
    '4:10',
    /64 lower-case hex/,
  ],
  [
    'a bad URL',
    'mesh = 1\n[sources.s]\nurls = ["ftp://x/y"]\nsha256 = "abc"\n',
    'MESH0203',
    '3:9',
    /expected a URL/,
  ],
  ['__proto__', one('inputs.__proto__ = { path = "x" }'), 'MESH0203', '4:8', /reserved/],
  ['nothing to build', 'mesh = 1\n', 'MESH0203', '', /no derivation/],
  [
    'an unknown derivation',
    one('inputs.x = { output = "bb.out" }\n[derivation.b]\nbuilder = "x"'),
    'MESH0206',
    '4:23',
    /no derivation "bb"/,
  ],
  [
    'an unknown output',
    one('inputs.x = { output = "b.doc" }\n[derivation.b]\nbuilder = "x"'),
    'MESH0206',
    '4:23',
    /no output of b named "doc"/,
  ],
  ['an unknown source', one('inputs.x = { source = "s" }'), 'MESH0206', '4:23', /no source "s"/],
  [
    'a derivation of itself',
    one('inputs.x = { output = "a" }'),
    'MESH0204',
    '4:23',
    /^a -> a\nf\.mesh\.toml:4:23: a needs a$/,
  ],
  [
    'outputs in one place',
    one('outputs = ["x"]\n[derivation."a.x"]\nbuilder = "x"'),
    'MESH0208',
    '5:13',
    /both be written to a\.x/,
  ],
  [
    'an absent file',
    one('inputs.x = { path = "./none" }'),
    'MESH0205',
    '4:21',
    /input "x": \.\/none does not exist \(looked in .*\)/,
  ],
  [
    'an absent file in a when',
    one('[[derivation.a.when]]\nhost = "x"\ninputs.y = { path = "none" }'),
    'MESH0205',
    '6:21',
    /input "y"/,
  ],
  [
    'a socket or the like',
    one('inputs.x = { path = "/dev/null" }'),
    'MESH0207',
    '4:21',
    /input "x"/,
  ],
  [
    'includes that match nothing',
    one('inputs.x = { path = "tree", include = ["*.rs"] }'),
    'MESH0203',
    '4:21',
    /no file in tree matches "\*\.rs"/,
  ],
  [
    'files in one another',
    one('inputs.x = { files = { a = { path = "a.txt" }, "a/b" = { path = "a.txt" } } }'),
    'MESH0203',
    '4:12',
    /lie in one another/,
  ],
  [
    'files that escape',
    one('inputs.x = { files = { "../a" = { path = "a.txt" } } }'),
    'MESH0203',
    '4:12',
    /not a relative path/,
  ],
]

for (const [what, text, code, where, message] of BAD)
  test(`graph-file: ${what} is refused at its place`, async () => {
    await assert.rejects(graphOf(text), (error) => {
      assert.ok(error instanceof MeshError, String(error))
      assert.equal(error.code, code, error.message)
      assert.equal(
        error.where,
        where === '' ? 'f.mesh.toml' : `f.mesh.toml:${where}`,
        error.message,
      )
      assert.match(error.message, message)
      return true
    })
  })

const hintOf = (text: string): string | undefined => {
  try {
    planToml(text)
  } catch (error) {
    if (error instanceof MeshError) return error.hints[0]
  }
  return undefined
}

test('graph-file: hints name the nearest known word', () => {
  assert.equal(hintOf(one('requirments = 1')), 'did you mean "needs"?')
  assert.equal(hintOf(one('ouputs = ["x"]')), 'did you mean "outputs"?')
  assert.equal(hintOf(one('needs.memroy = "1 GiB"')), 'did you mean "memory"?')
  assert.equal(
    hintOf(one('inputs.x = { output = "hallo" }\n[derivation.hello]\nbuilder = "x"')),
    'did you mean "hello"?',
  )
  assert.match(hintOf(one('zzzzzz = 1')) ?? '', /^known are builder, args/)
})

test('graph-file: a circle is shown with all its places', () => {
  const text = `mesh = 1
[derivation.a]
builder = "x"
inputs.i = { output = "b" }
[derivation.b]
builder = "x"
inputs.i = { output = "c.out" }
[derivation.c]
builder = "x"
inputs.i = { output = "a" }
[derivation.d]
builder = "x"
inputs.i = { output = "a" }
`
  assert.throws(() => planToml(text), {
    code: 'MESH0204',
    message:
      'a -> b -> c -> a\nf.mesh.toml:4:23: a needs b\nf.mesh.toml:7:23: b needs c\nf.mesh.toml:10:23: c needs a',
  })
})

test('graph-file: a chain of 20,000 derivations is planned without a deep stack', () => {
  const derivation = Object.fromEntries(
    Array.from({ length: 20_000 }, (_, at) => [
      `d${at}`,
      { builder: 'x', ...(at === 0 ? {} : { inputs: { before: { output: `d${at - 1}.out` } } }) },
    ]),
  )
  const located = parseJsonText('f.json', JSON.stringify({ mesh: 1, derivation }))
  const planned = plan(located)
  assert.equal(planned.derivations.length, 20_000)
  assert.deepEqual(planned.wanted, ['d19999'])
})

const fileEntry = (text: string, executable = false) => ({
  kind: 'file' as const,
  digest: sha256(text),
  size: text.length,
  executable,
})

const dirEntry = (entries: Parameters<typeof encodeTree>[0]) => {
  const bytes = encodeTree(entries)
  return { kind: 'dir' as const, digest: sha256(bytes), size: bytes.byteLength }
}

const inputOf = (value: unknown) => ({ kind: 'entry', entry: value })

test('graph-file: defaults are merged, and everything lands where the wire has it', async () => {
  const graph = await graphOf(`mesh = 1
[defaults]
system = "aarch64-linux"
timeout = "2h"
sealed = false
env = { A = "1", B = "1" }
needs = { memory = "1 GiB", features = ["kvm"] }
[sources.s]
urls = ["https://x/y", "mirror:///y"]
sha256 = "${sha256('y')}"
[derivation.a]
builder = "/bin/sh"
args = ["-c", "x"]
outputs = ["out", "doc"]
env = { B = "2" }
network = true
inputs.src = { source = "s" }
inputs.tree = { path = "tree", exclude = ["*.orig", "deep/**", "deep"] }
inputs.headers = { path = "tree", include = ["**/*.h"] }
inputs.link = { path = "link" }
inputs.stored = { cid = "${sha256('stored')}", executable = true }
inputs.mixed = { files = { "p/q.txt" = { path = "a.txt" } } }
[derivation.a.needs]
cpus = { min = 2, max = 4 }
disk = "2 GiB"
tools = ["make", "gcc", "make"]
host = ["x86_64-linux"]
[[derivation.a.when]]
host = "x86_64-linux"
args = ["cross"]
env = { CC = "cross-gcc" }
[[derivation.a.when]]
host = "riscv64-linux"
system = "x86_64-linux"
[derivation.a.run]
max-silent = "5m"
max-log = "1 MiB"
retries = 0
`)
  assert.deepEqual(GraphJson.parse(graph), graph)
  const [fetch, a] = graph.derivations
  assert.ok(fetch !== undefined && a !== undefined)
  assert.deepEqual(
    { name: fetch.name, builder: fetch.builder, system: fetch.system, fetch: fetch.fetch },
    {
      name: 'sources.s',
      builder: 'builtin:fetch',
      system: 'any',
      fetch: { urls: ['https://x/y', 'mirror:///y'], sha256: sha256('y') },
    },
  )
  assert.deepEqual(graph.wanted, ['a'])
  const { inputs, ...rest } = a
  assert.deepEqual(inputs, {
    src: { kind: 'output', derivation: 'sources.s', output: 'out' },
    tree: inputOf(
      dirEntry([
        { name: 'x.c', entry: fileEntry('x') },
        { name: 'x.h', entry: fileEntry('h') },
      ]),
    ),
    headers: inputOf(
      dirEntry([
        { name: 'deep', entry: dirEntry([{ name: 'y.h', entry: fileEntry('h') }]) },
        { name: 'x.h', entry: fileEntry('h') },
      ]),
    ),
    link: inputOf(fileEntry('a')),
    stored: inputOf({ kind: 'file', digest: sha256('stored'), size: 6, executable: true }),
    mixed: inputOf(
      dirEntry([{ name: 'p', entry: dirEntry([{ name: 'q.txt', entry: fileEntry('a') }]) }]),
    ),
  })
  assert.deepEqual(rest, {
    name: 'a',
    builder: '/bin/sh',
    args: ['-c', 'x'],
    env: { A: '1', B: '2' },
    outputs: ['out', 'doc'],
    system: 'aarch64-linux',
    hosts: ['x86_64-linux'],
    variants: [{ host: 'x86_64-linux', args: ['cross'], env: { CC: 'cross-gcc' }, inputs: {} }],
    network: true,
    sealed: false,
    tools: ['gcc', 'make'],
    needs: {
      cpus: { min: 2, max: 4 },
      memoryBytes: 2 ** 30,
      diskBytes: 2 ** 31,
      features: ['kvm'],
    },
    run: { timeoutMs: 7_200_000, maxSilentMs: 300_000, maxLogBytes: 2 ** 20, retries: 0 },
    where: 'f.mesh.toml:11:13',
    lines: {
      system: 3,
      sealed: 5,
      host: 27,
      cpus: 24,
      memory: 7,
      disk: 25,
      features: 7,
      tools: 26,
    },
  })
})

const names = ({ derivations }: Plan): string[] => derivations.map(({ name }) => name)

test('graph-file: -A takes what is named and what that needs, nothing else', async () => {
  const text = `mesh = 1
[sources.unused]
urls = ["https://x/y"]
sha256 = "${sha256('y')}"
[derivation.lib]
builder = "x"
[derivation."app-1.2"]
builder = "x"
inputs.lib = { output = "lib" }
[derivation.other]
builder = "x"
inputs.absent = { path = "not-there" }
inputs.app = { output = "app-1.2" }
[derivation.end]
builder = "x"
`
  assert.deepEqual(names(planToml(text)), ['lib', 'app-1.2', 'other', 'end'])
  assert.deepEqual(planToml(text).wanted, ['other', 'end'])
  assert.deepEqual(names(planToml(text, ['app-1.2'])), ['lib', 'app-1.2'])
  assert.deepEqual(planToml(text, ['sources.unused', 'lib', 'lib']).wanted, [
    'sources.unused',
    'lib',
  ])
  assert.throws(() => planToml(text, ['ap-1.2']), {
    code: 'MESH0206',
    hints: ['did you mean "app-1.2"?'],
  })
  await graphOf(text, ['lib'])
})

const JSON_BAD: readonly (readonly [text: string, where: string, message: RegExp])[] = [
  ['', '1:1', /expected a value, found the end of the file/],
  ['{"mesh": 1,\n "a": tru}', '2:7', /expected a value, found "t"/],
  ['{"mesh": 1,\n "a": 1 "b": 2}', '2:9', /expected ",", found "\\""/],
  ['{"a": 1, "a": 2}', '1:10', /the key "a" comes twice/],
  ['{"a": "x\ny"}', '1:7', /expected a value, found "\\""/],
  ['{"a": "\\x"}', '1:7', /escape/],
  ['{a: 1}', '1:2', /expected a key in quotes, found "a"/],
  ['[1, 2,]', '1:7', /expected a value, found "\]"/],
  ['{} x', '1:4', /expected the end of the file, found "x"/],
  ['01', '1:1', /expected a value|expected the end/],
  ['['.repeat(300), '1:202', /nested deeper than 200/],
]
for (const [text, where, message] of JSON_BAD)
  test(`graph-file: JSON ${JSON.stringify(text.slice(0, 24))} is refused at ${where}`, () => {
    assert.throws(
      () => parseJsonText('f.json', text),
      (error) => {
        assert.ok(error instanceof MeshError)
        assert.equal(error.code, 'MESH0201')
        assert.equal(error.where, `f.json:${where}`, error.message)
        assert.match(error.message, message)
        return true
      },
    )
  })

test('graph-file: any JSON text gives what JSON.parse gives', () => {
  fc.assert(
    fc.property(fc.jsonValue({ noUnicodeString: false }), fc.nat(3), (value, indent) => {
      const text = JSON.stringify(value, null, indent)
      assert.deepEqual(parseJsonText('f.json', text).value, JSON.parse(text))
    }),
  )
})

test('graph-file: values of JSON have their places', () => {
  const located = parseJsonText(
    'f.json',
    '{\n  "mesh": 1,\n  "derivation": { "a": {\n    "bulder": "x" } }\n}',
  )
  assert.throws(() => parseDescription(located), {
    code: 'MESH0202',
    where: 'f.json:4:5',
    hints: ['did you mean "builder"?'],
  })
})
