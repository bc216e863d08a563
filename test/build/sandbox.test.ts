/** Finding a sandbox, and the helper against specifications that no executor writes. */
import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readdir, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import fc from 'fast-check'
import { systemClock } from '../../src/base/clock.ts'
import { removeTree } from '../../src/files/workers/remove-job.ts'
import { LineDecoder, type SandboxChoice } from '../../src/build/executor-protocol.ts'
import { parseReport } from '../../src/build/sandbox-command.ts'
import { probeSandbox } from '../../src/build/sandbox.ts'
import { findTool } from '../../src/build/tool-path.ts'

let directory: string
let choice: SandboxChoice
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'mesh-sandbox-'))
  choice = await probeSandbox({ clock: systemClock() }, { directory })
})
after(() => removeTree(directory))

test('sandbox: each method that was not taken has its reason, and nothing is left behind', async () => {
  const none = await probeSandbox(
    { clock: systemClock() },
    { directory, forbid: ['helper', 'bwrap', 'unshare'] },
  )
  assert.deepEqual(none, {
    method: 'none',
    program: '',
    reasons: ['helper: not allowed here', 'bwrap: not allowed here', 'unshare: not allowed here'],
    imageProblem: 'there is no sandbox',
  })
  for (const name of await readdir(join(directory, 'sandbox')))
    assert.match(name, /^(?:[0-9a-f]{64}|root|etc)$/)
})

test('sandbox: two that probe at once take the same helper', async () => {
  const fresh = join(directory, 'fresh')
  const [one, two] = await Promise.all([
    probeSandbox({ clock: systemClock() }, { directory: fresh }),
    probeSandbox({ clock: systemClock() }, { directory: fresh }),
  ])
  assert.deepEqual(one, two)
})

test('sandbox: the helper compiles without a warning', async (context) => {
  const compiler = await findTool('cc')
  if (compiler === undefined) return context.skip('no C compiler on this machine')
  const source = join(import.meta.dirname, '../../src/build/sandbox/mesh-sandbox.c')
  execFileSync(compiler, [
    '-O2',
    '-Wall',
    '-Wextra',
    '-Werror',
    '-o',
    join(directory, 'strict'),
    source,
  ])
})

/** Runs the helper with a specification; its report. */
async function helper(words: readonly string[] | string): Promise<string> {
  const child = spawn(choice.program, [], { stdio: ['ignore', 'ignore', 'ignore', 'pipe'] })
  const channel = child.stdio[3]
  assert(channel !== null && channel !== undefined && 'end' in channel)
  let report = ''
  channel.on('data', (bytes) => (report += String(bytes))).on('error', () => {})
  channel.end(typeof words === 'string' ? words : words.map((word) => `${word}\0`).join(''))
  await once(child, 'close')
  return report
}
const ids = [
  'uid',
  `${process.geteuid?.()}`,
  'gid',
  `${process.getegid?.()}`,
  'parent',
  `${process.pid}`,
]

test('sandbox: the helper refuses malformed specifications', async (context) => {
  if (choice.method !== 'helper') return context.skip(`no helper: ${choice.reasons.join('; ')}`)
  const root = join(directory, 'root')
  await mkdir(root, { recursive: true })
  const good = [...ids, 'root', root, 'cwd', '/', 'arg', 'true', 'end']
  for (const [words, expected] of [
    ['', 'ended early'],
    ['uid', 'ended early'],
    [['uid'], 'has no end'],
    [['end'], 'not complete'],
    [['colour', 'red', 'end'], 'unknown key "colour"'],
    [['uid', '-1', 'end'], '"-1" in the specification is not a number'],
    [['uid', '4294967296', 'end'], 'is not a number'],
    [['dir', '/usr', '/a/../b', 'end'], 'not a canonical path'],
    [['dir', '/usr', 'relative', 'end'], 'not a canonical path'],
    [['dir', '/usr', '/', 'end'], 'not a canonical path'],
    [['dir', '/usr', `/${'x'.repeat(5000)}`, 'end'], 'not a canonical path'],
    [['dir', '/usr', '/a\nexited 0', 'end'], 'not complete'],
    [good, '"/" in the specification'],
  ] as const) {
    const report = await helper(words)
    assert(
      report.startsWith('failed ') && report.includes(expected),
      `${JSON.stringify(words)}: ${report}`,
    )
    assert.equal(report.indexOf('\n'), report.length - 1, 'one line')
  }
})

test('sandbox: the helper places no mount through a link, and mounts no other kind than told', async (context) => {
  if (choice.method !== 'helper') return context.skip(`no helper: ${choice.reasons.join('; ')}`)
  const root = join(directory, 'root2')
  const tree = join(directory, 'tree')
  await mkdir(root)
  await mkdir(tree)
  await symlink(directory, join(tree, 'up'))
  const run = (...mounts: string[]): Promise<string> =>
    helper([...ids, 'root', root, 'cwd', '/a', ...mounts, 'arg', 'true', 'end'])
  assert.match(
    await run('rw', tree, '/a', 'dir', tree, '/a/up/escaped'),
    /^failed open the directory of \/a\/up\/escaped: /,
  )
  assert.match(await run('dir', join(tree, 'up'), '/a'), /^failed .*tree\/up/)
  assert.match(await run('file', tree, '/a'), /file type 40000, expected 100000/)
  assert.match(await run('dir', '/dev/null', '/a'), /file type 20000, expected 40000/)
  assert.match(await run('dir', join(tree, 'absent'), '/a'), /absent: No such file or directory/)
  assert.deepEqual((await readdir(directory)).includes('escaped'), false)
})

test('sandbox: reports are read whatever order they come in', () => {
  const usage = { cpuMs: 0, maxRssBytes: 0, begun: false }
  assert.deepEqual(parseReport('exited 3\nusage 12 4096\n'), {
    ...usage,
    end: { kind: 'exited', code: 3 },
    cpuMs: 12,
    maxRssBytes: 4096,
  })
  assert.deepEqual(parseReport('begun\nexited 0\n0m0.00s 0m0.00s\n1m1.50s 0m0.25s\n'), {
    ...usage,
    begun: true,
    end: { kind: 'exited', code: 0 },
    cpuMs: 61_750,
  })
  assert.deepEqual(parseReport('signalled 9\n').end, { kind: 'signalled', signal: 'SIGKILL' })
  assert.deepEqual(parseReport('').end, undefined)
})

test('sandbox: lines survive any cutting into pieces', () => {
  fc.assert(
    fc.property(
      fc.array(fc.string().map((line) => line.replaceAll('\n', ' '))),
      fc.integer({ min: 1, max: 7 }),
      (lines, size) => {
        const whole = lines.map((line) => `${line}\n`).join('')
        const decoder = new LineDecoder()
        const read: string[] = []
        for (let at = 0; at < whole.length; at += size)
          read.push(...decoder.push(whole.slice(at, at + size)))
        assert.deepEqual(read, lines)
      },
    ),
  )
})
