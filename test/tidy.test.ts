/**
 * Rules about the code itself: layers, what may be called where, what the client may load.
 *
 * After tigerbeetle's tidy.zig and tailscale's deptest. A rule that a linter can hold is not here.
 */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join, posix } from 'node:path'
import { test } from 'node:test'
import { ERRORS } from '../src/base/errors.ts'

/** Lowest first: what each folder of src may import besides itself, and which packages. `*` is any package. */
const LAYERS: Record<string, { folders: readonly string[]; packages: readonly string[] }> = {
  base: { folders: [], packages: ['node:assert/strict', 'node:crypto'] },
  wire: {
    folders: ['base'],
    packages: ['node:assert/strict', 'node:crypto', 'zod', 'multiformats/*', '@ipld/dag-cbor'],
  },
  files: { folders: ['wire', 'base'], packages: ['node:*'] },
  jobs: { folders: ['wire', 'base'], packages: ['node:*'] },
  scheduler: { folders: ['wire', 'base'], packages: ['node:assert/strict'] },
  gossip: { folders: ['wire', 'base'], packages: ['*'] },
  store: { folders: ['files', 'wire', 'base'], packages: ['*'] },
  build: { folders: ['store', 'files', 'jobs', 'wire', 'base'], packages: ['*'] },
  gateway: { folders: ['store', 'wire', 'base'], packages: ['*'] },
  node: {
    folders: ['gateway', 'build', 'store', 'files', 'gossip', 'scheduler', 'wire', 'base'],
    packages: ['*'],
  },
  web: { folders: [], packages: ['preact', 'preact/*', 'uplot'] },
  cli: {
    folders: ['files', 'jobs', 'wire', 'base'],
    packages: ['node:*', 'zod', 'undici', 'smol-toml', 'toml-eslint-parser'],
  },
}

/** Pattern, paths where it is right, and what to do instead. */
const BANNED: readonly [RegExp, RegExp, string][] = [
  [
    /\bDate\.now\(|\bnew Date\(\)|\bperformance\.now\(|\bprocess\.(?:hrtime|uptime)\b|\bset(?:Timeout|Interval)\b|\bAbortSignal\.timeout\(/,
    /^base\/clock\.ts$/,
    'take a Clock',
  ],
  [
    /\bMath\.random\(|\brandomUUID\(|\brandomBytes\(|\brandomInt\(/,
    /^base\/random\.ts$/,
    'take a Random',
  ],
  [/\bconsole\./, /^cli\//, 'log with the logger passed in'],
  [
    /\bprocess\.env\b/,
    /^(?:cli\/|node\/config\/config-io\.ts$)/,
    'make it a setting, or take the Env of node/config/config-io.ts',
  ],
  [
    /\bprocess\.exit\(/,
    /^(?:node|cli|build)\/(?:.*-)?main\.ts$/,
    'return, and let main end the process',
  ],
  [/\bTODO\b|\bFIXME\b|\bXXX\b/, /^$/, 'resolve it, or file an issue'],
  [/@ts-(?:ignore|nocheck|expect-error)\b/, /^$/, 'say it in types'],
]

/** What the client must never load: each costs a tenth of a second or more at every start. */
const HEAVY =
  /^(?:libp2p|@libp2p\/.*|@chainsafe\/.*|level|classic-level|fastify|pino|pino-pretty|prom-client)$/

/** The one that loads what a person names: a generator of derivations. */
const COMPUTED_IMPORTS = ['src/cli/graph-file/read-graph-file.ts']

/** Codes that are in the table for what this version does not yet raise. */
const UNUSED_CODES: readonly string[] = []

const root = join(import.meta.dirname, '..')

interface Source {
  /** Relative to the root of the checkout. */
  readonly path: string
  readonly text: string
}

function sources(folder: string, extension = /\.ts$/): Source[] {
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => posix.relative(join(root, folder), join(entry.parentPath, entry.name)))
    .filter(
      (path) => extension.test(path) && !/(?:^|\/)(?:node_modules|results|fixtures)\//.test(path),
    )
    .toSorted()
    .map((path) => ({
      path: `${folder}/${path}`,
      text: readFileSync(join(root, folder, path), 'utf8'),
    }))
}

const src = sources('src')
const typescript = [
  ...src,
  ...['test', 'bench', 'scripts', 'examples'].flatMap((folder) => sources(folder)),
]

/** Without comments that begin a line or follow code: names in prose are not uses. */
function codeOf(text: string): string {
  return text.replaceAll(/^[ \t]*\/\*[\s\S]*?\*\//gm, '').replaceAll(/(?:^|\s)\/\/ .*$/gm, '')
}

/** Every specifier that a file loads: static, side-effect, type, dynamic, resolved, or as a worker. */
function importsOf(text: string): string[] {
  const forms =
    /\bfrom\s*'([^']+)'|\bimport\s*'([^']+)'|\bimport\(\s*'([^']+)'|\b(?:require|resolve)\(\s*'([^']+)'\s*\)|\bnew URL\(\s*'(\.[^']+\.ts)'/g
  return [...codeOf(text).matchAll(forms)].map((match) => match.slice(1).find(Boolean) ?? '')
}

function isAllowed(specifier: string, packages: readonly string[]): boolean {
  return packages.some(
    (name) =>
      name === '*' ||
      name === specifier ||
      (name.endsWith('*') && specifier.startsWith(name.slice(0, -1))),
  )
}

test('tidy: folders import only lower layers, and only their packages', () => {
  const wrong: string[] = []
  for (const { path, text } of src) {
    const folder = path.split('/')[1] ?? ''
    const layer = LAYERS[folder]
    assert(layer !== undefined, `src/${folder} is not in LAYERS`)
    for (const specifier of importsOf(text)) {
      if (specifier.startsWith('.')) {
        const [top, target = ''] = posix.join(posix.dirname(path), specifier).split('/')
        // package.json is the one file outside src that holds something a program may ask for.
        const isInside = top === 'src' && (target === folder || layer.folders.includes(target))
        if (!isInside && posix.join(posix.dirname(path), specifier) !== 'package.json')
          wrong.push(`${path} may not import ${specifier}`)
      } else if (!isAllowed(specifier, layer.packages)) {
        wrong.push(`${path} may not import ${specifier}`)
      }
    }
  }
  assert.deepEqual(wrong, [])
})

test('tidy: every import in src can be read off, but that of a generator', () => {
  const computed = src
    .filter(({ text }) => /\bimport\(\s*[^'\s]|\brequire\(\s*[^'\s]/.test(codeOf(text)))
    .map(({ path }) => path)
  assert.deepEqual(computed, COMPUTED_IMPORTS)
})

test('tidy: the client never loads libp2p, level, fastify or pino', () => {
  const byPath = new Map(src.map((source) => [source.path, source]))
  const queue = ['src/cli/main.ts', 'src/cli/api.ts']
  const from = new Map(queue.map((path) => [path, path]))
  const wrong: string[] = []
  for (const path of queue) {
    const source = byPath.get(path)
    assert(source !== undefined, `${path}, imported by ${from.get(path)}, does not exist`)
    for (const specifier of importsOf(source.text)) {
      if (HEAVY.test(specifier)) wrong.push(`${from.get(path)} -> ${path} -> ${specifier}`)
      const target = posix.join(posix.dirname(path), specifier)
      if (!specifier.startsWith('.') || !target.endsWith('.ts') || from.has(target)) continue
      from.set(target, `${from.get(path)} -> ${target}`)
      queue.push(target)
    }
  }
  assert.deepEqual(wrong, [])
})

test('tidy: no banned call', () => {
  const wrong: string[] = []
  for (const { path, text } of src) {
    for (const [pattern, allowed, advice] of BANNED) {
      const found = pattern.exec(codeOf(text))
      if (found !== null && !allowed.test(path.slice('src/'.length)))
        wrong.push(`${path}: ${found[0]} - ${advice}`)
    }
  }
  assert.deepEqual(wrong, [])
})

test('tidy: each file says first what it is for', () => {
  const wrong = typescript
    .filter(({ text }) => !/^(?:#!.*\n)?\/\*\*/.test(text))
    .map(({ path }) => path)
  assert.deepEqual(wrong, [])
})

test('tidy: names are in kebab case', () => {
  const wrong = typescript
    .map(({ path }) => path)
    .filter(
      (path) => !/^(?:[a-z0-9]+(?:-[a-z0-9]+)*\/)*[a-z0-9]+(?:[-.][a-z0-9]+)*\.ts$/.test(path),
    )
  assert.deepEqual(wrong, [])
})

test('tidy: no path of one machine', () => {
  const others = ['examples', 'bin', '.ci'].flatMap((folder) =>
    sources(folder, /(?:\/|^)[^.]+$|\.(?:toml|cc|c|sh)$/),
  )
  const wrong: string[] = []
  for (const { path, text } of [...typescript, ...others]) {
    const found = /(?<![\w.}~/-])\/(?:home|root|Users|work)\/\w+/.exec(text)
    if (found !== null) wrong.push(`${path}: ${found[0]}`)
  }
  assert.deepEqual(wrong, [])
})

test('tidy: error codes are those of the table, and each is raised somewhere', () => {
  const used = new Set<string>()
  const wrong: string[] = []
  for (const { path, text } of src) {
    if (path === 'src/base/errors.ts') continue
    for (const [code] of text.matchAll(/\bMESH\d{4}\b/g)) {
      used.add(code)
      if (!Object.hasOwn(ERRORS, code)) wrong.push(`${path}: ${code} is not in base/errors.ts`)
    }
  }
  assert.deepEqual(wrong, [])
  const codes = Object.keys(ERRORS)
  assert.deepEqual(codes, codes.toSorted(), 'base/errors.ts is sorted by code')
  assert.deepEqual(
    codes.filter((code) => !used.has(code)),
    UNUSED_CODES,
    'codes that nothing raises',
  )
})

test('tidy: the launchers are executable and equal', () => {
  const [mesh, node] = ['mesh', 'mesh-node'].map((name) => join(root, 'bin', name))
  assert(mesh !== undefined && node !== undefined)
  assert.equal(readFileSync(mesh, 'utf8'), readFileSync(node, 'utf8'))
  for (const path of [mesh, node]) assert.equal(statSync(path).mode & 0o111, 0o111, path)
})

test('tidy: every dependency is pinned exactly, and explained in ADR 2', () => {
  const manifest: Record<string, Record<string, string>> = JSON.parse(
    readFileSync(join(root, 'package.json'), 'utf8'),
  )
  const adr = readFileSync(join(root, 'docs/adr/0002-dependencies.md'), 'utf8')
  const wrong: string[] = []
  for (const kind of ['dependencies', 'optionalDependencies', 'devDependencies']) {
    for (const [name, version] of Object.entries(manifest[kind] ?? {})) {
      if (!/^\d+\.\d+\.\d+(?:-[\w.]+)?$/.test(version)) wrong.push(`${name}: ${version}`)
      if (!adr.includes(`\`${name}\``))
        wrong.push(`${name} has no line in docs/adr/0002-dependencies.md`)
    }
  }
  assert.deepEqual(wrong, [])
})
