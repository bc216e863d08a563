/** The wizard with a person who types what a test says: what is asked, what is refused, what comes out. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { test } from 'node:test'
import fc from 'fast-check'
import { parse } from 'smol-toml'
import { choicesOf, saidBy, type Draft } from '../../../src/node/setup/init/draft.ts'
import { equivalentCommand } from '../../../src/node/setup/init/equivalent-command.ts'
import { interview } from '../../../src/node/setup/init/interview.ts'
import { resolveText } from '../../../src/node/setup/init/draft.ts'
import { settingsToml } from '../../../src/node/setup/init/settings-toml.ts'
import type { Disk } from '../../../src/node/setup/machine.ts'
import { readSetupLine } from '../../../src/node/setup/setup-flags.ts'
import type { Terminal } from '../../../src/node/setup/terminal.ts'
import { GIB, machine, measured } from './machines.ts'

const ID = '12D3KooWGatU38nUxa2UFZ9hKsn9ZEjVQZbXrBVcqZMfXhvBVrBe'
const PARENT = `/ip4/10.0.0.7/tcp/7421/p2p/${ID}`
const io = {
  cwd: '/work',
  hostname: 'a',
  home: '/ann',
  isRoot: false,
  isTty: true,
  readFile: () => undefined,
}
const SMALL: Disk = { directory: '', totalBytes: 40 * GIB, freeBytes: 20 * GIB, isOwn: false }

function draft(more: Partial<Draft> = {}): Draft {
  return {
    findings: { machine: machine(), measured: measured(8) },
    jobs: 'mixed',
    place: undefined,
    said: new Map(),
    ...more,
  }
}

/** Types these lines, then ^D. */
function scripted(lines: readonly string[]) {
  const shown: string[] = []
  const left = [...lines]
  const terminal: Terminal = {
    show: (text) => void shown.push(text),
    ask(prompt) {
      shown.push(`${prompt}\n`)
      return Promise.resolve(left.shift())
    },
    interrupt() {},
    [Symbol.dispose]() {},
  }
  return { terminal, shown, left }
}

async function asked(lines: readonly string[], first = draft(), isKindSet = false) {
  const person = scripted(lines)
  const result = await interview(
    {
      terminal: person.terminal,
      io,
      lookAtDisk: (directory) => Promise.resolve({ ...SMALL, directory }),
    },
    first,
    { places: { cwd: io.cwd, home: io.home, data: '/data' }, isKindSet },
  )
  const text = person.shown.join('')
  const questions = [...text.matchAll(/^(\d)\. /gm)].length
  const refused = [...text.matchAll(/^ {2}! /gm)].length
  return { result, text, questions, refused, left: person.left }
}

/** As plain objects, whose prototype is compared as well. */
const tomlOf = (of: Draft) => structuredClone(parse(settingsToml(choicesOf(of), 'test')))

test('init: five questions at most, and the return key takes all proposals', async () => {
  const { result, questions, refused, text } = await asked(['', '', '', '', ''])
  assert.deepEqual([questions, refused], [5, 0])
  assert(result !== undefined)
  assert.deepEqual(tomlOf(result), {
    node: { roles: ['root', 'worker', 'store'] },
    worker: { cpus: 8, isolation: 'auto', memory: '30 GiB', policy: 'dedicated' },
    store: { free: 'auto', quota: 'none' },
  })
  for (const line of text.split('\n')) assert(line.length < 80, line)
})

test('init: bad answers are told with what is wrong, and asked again', async () => {
  const { result, refused, questions, text, left } = await asked([
    'nowhere',
    '/ip4/300.0.0.1/tcp/7421',
    PARENT,
    'worker boss',
    'worker',
    'rust',
    'large-c',
    '0',
    '9',
    'sometimes',
    'when-idle 4',
    '12 parsecs',
    '12 kB',
    '15 GiB at ~/mesh',
  ])
  assert.deepEqual([questions, refused, left], [5, 9, []])
  for (const words of [
    /"nowhere" is none of alone, new/,
    /expected a multiaddr such as/,
    /"boss" is none of root, worker, store/,
    /"rust" is none of c, large-c, java, mixed/,
    /! 0 is not from 1 to 8/,
    /! 9 is not from 1 to 8/,
    /"sometimes" is neither a number nor/,
    /"12 parsecs" is no size/,
  ])
    assert.match(text, words)
  assert(result !== undefined)
  assert.deepEqual(tomlOf(result), {
    node: {
      allow: [ID],
      data: '/ann/mesh',
      listen: ['none'],
      parents: [PARENT],
      roles: ['worker'],
    },
    worker: {
      cpus: 4,
      isolation: 'auto',
      memory: '24 GiB',
      policy: 'when-idle',
      owner: { cpus: 2 },
    },
    store: { free: 'auto', quota: '15 GiB' },
    http: { listen: '0.0.0.0:7420' },
  })
})

test('init: what a flag said is not asked', async () => {
  const { line, jobs } = readSetupLine('init', [
    'init',
    '--for',
    'c',
    '--role=worker,store',
    '--listen',
    'none',
    '--cpus',
    '3',
  ])
  assert.equal(jobs, 'c')
  const said = saidBy(line, {}, io)
  const { questions, result } = await asked(['20 GiB'], draft({ jobs: 'c', said }), true)
  assert.equal(questions, 1)
  assert(result !== undefined)
  const toml = settingsToml(choicesOf(result), 'test')
  assert.match(toml, /# --cpus says so\ncpus = 3\n/)
  assert.match(toml, /# you said so\nquota = "20 GiB"\n/)
})

test('init: a node that does not build is not asked about builds', async () => {
  const { questions, result } = await asked(['', 'root store', ''])
  assert.equal(questions, 3)
  assert.deepEqual(result === undefined ? undefined : Object.keys(tomlOf(result)), [
    'node',
    'store',
  ])
})

test('init: another directory is on another disk, and its size is proposed for that one', async () => {
  const { result } = await asked(['', '', '', '', '/srv/mesh'])
  assert(result !== undefined)
  assert.deepEqual(tomlOf(result)['store'], { free: 'auto', quota: '8 GiB' })
})

test('init: whoever ends it early gets nothing', async () => {
  for (let count = 0; count < 5; count += 1) {
    const { result } = await asked(Array.from({ length: count }, () => ''))
    assert.equal(result, undefined)
  }
})

test('init: flags of a wrong form are told before anything is measured', () => {
  const read = (...argv: readonly string[]) =>
    saidBy(readSetupLine('init', ['init', ...argv]).line, {}, io)
  assert.throws(() => read('--cpus', 'many'), {
    code: 'MESH0104',
    message: /--cpus "many": expected/,
  })
  assert.throws(() => read('--parent', 'x'), { code: 'MESH0104', message: /--parent "x"/ })
  assert.throws(() => read('--cpu', '1'), { code: 'MESH0104', message: /unknown flag --cpu/ })
  // Whom to admit is proposed afterwards.
  assert.equal(read('--listen', '/ip4/0.0.0.0/tcp/7421').size, 1)
})

/** As a shell splits it. */
function wordsOf(command: string): string[] {
  const printed = execFileSync('/bin/sh', ['-c', `set -- ${command}; printf '%s\\0' "$@"`])
  return printed.toString().split('\0').slice(0, -1)
}

test('init: the command it prints gives the same configuration', async () => {
  const path = fc.stringMatching(/^\/[ -~äß]{1,20}$/).filter((text) => !text.endsWith(' '))
  const one = fc.record({
    place: fc.constantFrom('alone', 'new', PARENT, `${PARENT} /dns4/b.example/tcp/7421`),
    roles: fc.constantFrom('', 'worker', 'root,store', 'worker store'),
    jobs: fc.constantFrom('', 'c', 'java'),
    builds: fc.constantFrom('', 'when-idle', 'proportional 3', 'disabled', '5'),
    store: fc.oneof(fc.constantFrom('', 'none', '7 GiB'), path),
  })
  await fc.assert(
    fc.asyncProperty(one, async ({ place, roles, jobs, builds, store }) => {
      const isBuilding = roles === '' || roles.includes('worker')
      const answers = isBuilding ? [place, roles, jobs, builds, store] : [place, roles, store]
      const { result, refused } = await asked(answers)
      assert.equal(refused, 0)
      assert(result !== undefined)
      const toml = settingsToml(choicesOf(result), 'test')
      const { settings, config } = resolveText(toml, '/mesh.toml', io)
      assert(config !== undefined)
      const flagOf = new Map(settings.map(({ section, key, flag }) => [`${section}.${key}`, flag]))
      const command = equivalentCommand(result, { flagOf, config: '/x y.toml' })
      const [program, ...argv] = wordsOf(command)
      assert.equal(program, 'mesh-node')
      const again = readSetupLine('init', argv)
      assert(again.switches.has('yes'))
      assert.deepEqual(again.line.flags.get('config'), ['/x y.toml'])
      const other: Draft = {
        ...draft({ findings: result.findings }),
        jobs: again.jobs ?? 'mixed',
        said: saidBy(again.line, {}, io),
      }
      const reread = resolveText(settingsToml(choicesOf(other), 'test'), '/mesh.toml', io)
      assert.deepEqual(reread.config, config, command)
    }),
    { numRuns: 100 },
  )
})
