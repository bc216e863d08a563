/** `mesh shell`: the place of a job once more, with its inputs, at a person's terminal. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { openMesh, until } from './meshes.ts'

const GRAPH = `mesh = 1
[derivation.first]
builder = "/bin/sh"
args = ["-c", 'mkdir $out; echo of the first > $out/text']

[derivation.second]
builder = "/bin/sh"
args = ["-c", 'cat $first/text > $out; echo "$WORD" >> $out; exit 3']
inputs.first = { output = "first" }
env.WORD = "it is 'quoted'"

[derivation.bare]
sealed = false
builder = "/bin/sh"
args = ["-c", 'echo x > $out']
`

test(
  'shell: the inputs, the environment and the builder of a job that failed',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const node = await mesh.start({ name: 'one', role: 'root,worker,store' })
    const desk = mesh.desk(node)
    await desk.untilReady('one')
    desk.write('graph.mesh.toml', GRAPH)
    const failed = await desk.mesh('submit', 'graph.mesh.toml', '-A', 'second')
    assert.equal(failed.code, 1, failed.stderr)

    const script =
      'cat $first/text; echo "$WORD"; id -u; echo no > $first/text; sh /build/home/builder.sh; echo "again $?"; cat $out; exit 9'
    const ran = await desk.mesh('shell', 'second', '--', '/bin/sh', '-c', script)
    assert.equal(ran.code, 9, ran.stderr)
    assert.equal(
      ran.stdout,
      "of the first\nit is 'quoted'\n1000\nagain 3\nof the first\nit is 'quoted'\n",
      ran.stderr,
    )
    assert.match(ran.stderr, /Read-only file system/)
    const builds = join(node.directory, 'build')
    await until('its directory to be cleared away', async () =>
      readdirSync(builds).length === 0 ? true : undefined,
    )

    const noTerminal = await desk.mesh('shell', 'second')
    assert.equal(noTerminal.code, 2)
    assert.match(noTerminal.stderr, /no terminal[\s\S]*mesh shell JOB -- COMMAND/)
    const absent = await desk.mesh('shell', 'nothing', '--', 'true')
    assert.equal(absent.code, 5, absent.stderr)
    const missing = await desk.mesh('shell', 'second', '--', 'no-such-program')
    assert.match(missing.stderr, /MESH0406[\s\S]*no-such-program/)

    await desk.mesh('submit', 'graph.mesh.toml', '-A', 'bare')
    const bare = await desk.mesh('shell', 'bare', '--', 'true')
    assert.equal(bare.code, 2)
    assert.match(bare.stderr, /without walls/)
  },
)

test('shell: a client that is killed leaves nothing behind', { timeout: 120_000 }, async (t) => {
  await using mesh = await openMesh(t)
  const node = await mesh.start({ name: 'one', role: 'root,worker,store' })
  const desk = mesh.desk(node)
  await desk.untilReady('one')
  desk.write('graph.mesh.toml', GRAPH)
  await desk.mesh('submit', 'graph.mesh.toml', '-A', 'first')
  const { child, output, ended } = desk.follow(
    'shell',
    'first',
    '--',
    '/bin/sh',
    '-c',
    'echo in; exec sleep 1000.375',
  )
  await until('the shell', async () => (output.stdout.includes('in') ? true : undefined))
  child.kill('SIGKILL')
  await ended
  const builds = join(node.directory, 'build')
  await until('its directory to be cleared away', async () =>
    readdirSync(builds).length === 0 ? true : undefined,
  )
  await until('its processes to be gone', async () => {
    const lines = await new Promise<string>((resolve) => {
      const ps = spawn('ps', ['-eo', 'args'])
      let text = ''
      ps.stdout.on('data', (bytes: Buffer) => (text += bytes.toString()))
      void once(ps, 'close').then(() => resolve(text))
    })
    return lines.includes('sleep 1000.375') ? undefined : true
  })
})

test('shell: a terminal is handed to the shell and given back', { timeout: 120_000 }, async (t) => {
  if (!existsSync('/usr/bin/script')) {
    t.skip('script (util-linux) is not installed')
    return
  }
  await using mesh = await openMesh(t)
  const node = await mesh.start({ name: 'one', role: 'root,worker,store' })
  const desk = mesh.desk(node)
  await desk.untilReady('one')
  desk.write('graph.mesh.toml', GRAPH)
  await desk.mesh('submit', 'graph.mesh.toml', '-A', 'first')
  const bin = join(import.meta.dirname, '../../bin/mesh')
  const child = spawn(
    '/usr/bin/script',
    ['-qefc', `${bin} shell first; echo code $?`, '/dev/null'],
    {
      cwd: desk.directory,
      env: { ...process.env, MESH_SOCKET: node.file.socket, TERM: 'xterm' },
    },
  )
  const closed = once(child, 'close')
  let text = ''
  child.stdout.on('data', (bytes: Buffer) => (text += bytes.toString()))
  const shows = (what: RegExp): Promise<true> =>
    until(`the terminal to show ${what.source}`, async () => (what.test(text) ? true : undefined))
  await shows(/mesh first\$ $/)
  child.stdin.write('sleep 100\n')
  await shows(/sleep 100\r\n$/)
  // ^C is for what runs in the shell, not for the shell.
  child.stdin.write('\u0003')
  await shows(/\^C\r\nmesh first\$ $/)
  child.stdin.write('exit 4\n')
  await shows(/code 4/)
  child.stdin.end()
  await closed
})
