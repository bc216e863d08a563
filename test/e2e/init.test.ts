/** The wizard as people meet it: in a real terminal, without one, ended by ^C, and by its own command again. */
import assert from 'node:assert/strict'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { parse } from 'smol-toml'
import { MESH_NODE } from '../../scripts/cluster.ts'
import { openMesh } from './meshes.ts'
import { quoted } from '../../src/node/setup/init/equivalent-command.ts'

const script = spawnSync('script', ['--version']).status === 0
const inTerminal = { skip: script ? false : 'needs script (package bsdutils)', timeout: 120_000 }

interface Ended {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** What a terminal got, without colours and cursor movements. */
// oxlint-disable-next-line no-control-regex
const plain = (text: string): string => text.replaceAll(/\x1b\[[0-9;?]*[A-Za-z]|\r/g, '')

/** The last question that was asked, as soon as it waits for its answer. */
const PROMPT = / {2}\[[^\]\n]+\] $/

class Person implements Disposable {
  readonly directory = mkdtempSync(join(tmpdir(), 'mesh-init-'))
  readonly config = join(this.directory, 'mesh.toml')
  readonly #env = {
    PATH: process.env['PATH'] ?? '/usr/bin:/bin',
    HOME: this.directory,
    XDG_CACHE_HOME: join(this.directory, 'cache'),
    TERM: 'xterm',
    COLUMNS: '80',
  }

  command(...args: readonly string[]): string {
    const data = ['--data', join(this.directory, 'data')]
    return [MESH_NODE, 'init', '--config', this.config, ...data, ...args].map(quoted).join(' ')
  }

  /** `lines` are typed one at each question; `^C` is that key, at once where no question is waited for. */
  inTerminal(command: string, lines: readonly string[], keyAt?: RegExp): Promise<Ended> {
    const child = spawn('script', ['-qec', command, '/dev/null'], {
      cwd: this.directory,
      env: this.#env,
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    const left = [...lines]
    let text = ''
    let answered = 0
    child.stdout.setEncoding('utf8').on('data', (piece: string) => {
      text += piece
      const now = plain(text)
      if (keyAt !== undefined && answered === 0 && keyAt.test(now)) {
        answered = now.length
        child.stdin.write('\u0003')
      }
      // The terminal shows again what was typed: a question counts once.
      if (keyAt !== undefined || !PROMPT.test(now.slice(answered))) return
      const line = left.shift()
      if (line === undefined) return
      answered = now.length
      child.stdin.write(line === '^C' ? '\u0003' : `${line}\r`)
    })
    return ended(child, () => plain(text))
  }

  run(command: string): Promise<Ended> {
    const child = spawn('/bin/sh', ['-c', command], {
      cwd: this.directory,
      env: this.#env,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let out = ''
    child.stdout.setEncoding('utf8').on('data', (piece: string) => (out += piece))
    return ended(child, () => out)
  }

  read(): string {
    return readFileSync(this.config, 'utf8')
  }

  /** That a daemon would take it. */
  check(): string {
    return execFileSync(MESH_NODE, ['config', 'check', '--config', this.config], {
      env: this.#env,
    }).toString()
  }

  /** All but the compiled code that Node keeps. */
  files(): string[] {
    return readdirSync(this.directory).filter((name) => name !== 'cache')
  }

  [Symbol.dispose](): void {
    rmSync(this.directory, { recursive: true })
  }
}

function ended(child: ReturnType<typeof spawn>, stdout: () => string): Promise<Ended> {
  let stderr = ''
  child.stderr?.setEncoding('utf8').on('data', (piece: string) => (stderr += piece))
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code, signal) => {
      if (code === null) reject(new Error(`ended by ${signal}`))
      else resolve({ code, stdout: stdout(), stderr })
    })
  })
}

const ID = '12D3KooWGatU38nUxa2UFZ9hKsn9ZEjVQZbXrBVcqZMfXhvBVrBe'

test(
  'init: answers in a terminal, wrong ones too, then the same by its own command',
  inTerminal,
  async () => {
    using ann = new Person()
    const said = await ann.inTerminal(ann.command(), [
      'over there',
      `/ip4/10.0.0.7/tcp/7421/p2p/${ID}`,
      '',
      'fortran',
      'c',
      'when-idle 4096',
      'when-idle 1',
      'b',
    ])
    assert.equal(said.code, 0, said.stdout)
    for (const words of [
      /! "over there" is none of alone, new/,
      /! "fortran" is none of c, large-c, java, mixed/,
      /! 4096 is not from 1 to \d+/,
      /will be:/,
      /# you said so\n {2}policy = "when-idle"/,
      /wrote .*mesh\.toml/,
      /ExecStart=.*\/bin\/mesh-node run --config /,
      /mesh-node id --config /,
    ])
      assert.match(said.stdout, words)
    assert.deepEqual(ann.files(), ['mesh.toml'], 'nothing but the configuration is written')
    assert.match(ann.check(), /^policy = "when-idle"/m)
    const written = ann.read()
    assert.match(written, /^# .+\ncpus = 1$/m)

    const command = /^ {2}(mesh-node init --yes (?:.*\\\n)*.*)$/m.exec(said.stdout)?.[1] ?? ''
    rmSync(ann.config)
    // A terminal of 80 columns does not cut a line: it only shows it in two.
    const again = await ann.run(command.replace('mesh-node', quoted(MESH_NODE)))
    assert.equal(again.code, 0, again.stderr)
    assert.deepEqual(parse(ann.read()), parse(written))
  },
)

test(
  'init: a file that is there is replaced only by somebody who says so',
  inTerminal,
  async () => {
    using ann = new Person()
    writeFileSync(ann.config, '# mine\n')
    const flags = ['--role', 'store', '--listen', 'none']
    const kept = await ann.inTerminal(ann.command(...flags), [''])
    assert.deepEqual([kept.code, ann.read()], [8, '# mine\n'], kept.stdout)
    assert.match(kept.stdout, /There is a .*mesh\.toml already\. Replace it\?/)
    const refused = await ann.run(ann.command('--yes', '--json'))
    assert.deepEqual([refused.code, ann.read()], [2, '# mine\n'])
    const { error } = JSON.parse(refused.stdout)
    assert.deepEqual([error.code, error.where], ['MESH0604', ann.config])
    const replaced = await ann.inTerminal(ann.command(...flags), ['yes'])
    assert.equal(replaced.code, 0, replaced.stdout)
    assert.match(ann.check(), /^roles = \["store"\]/m)
    assert.equal((await ann.run(ann.command('--yes', '--force'))).code, 0)
    assert.match(ann.check(), /^roles = \["root", "worker", "store"\]/m)
  },
)

test(
  'init: ^C leaves nothing behind, at a question and while it measures',
  inTerminal,
  async () => {
    using ann = new Person()
    const asked = await ann.inTerminal(ann.command(), ['', '', '^C'])
    assert.deepEqual([asked.code, ann.files()], [130, []], asked.stdout)
    assert.match(asked.stdout, /nothing was written/)
    const measuring = await ann.inTerminal(ann.command(), [], /at once/)
    assert.deepEqual([measuring.code, ann.files()], [130, []], measuring.stdout)
  },
)

test('init: without a terminal it says which flags to use', { timeout: 60_000 }, async () => {
  using ann = new Person()
  const { code, stderr, stdout } = await ann.run(ann.command())
  assert.deepEqual([code, stdout, ann.files()], [2, '', []])
  assert.match(stderr, /^error\[MESH0002\]: init asks questions, and there is no terminal/)
  for (const flag of ['--yes', '--parent', '--role', '--for', '--policy', '--cpus', '--quota'])
    assert(stderr.includes(flag), `${flag} is not named`)
})

test('init: --yes takes what is proposed, and --json tells it', { timeout: 60_000 }, async () => {
  using ann = new Person()
  const { code, stdout } = await ann.run(
    ann.command('--yes', '--json', '--cpus', '1', '--for', 'java'),
  )
  assert.equal(code, 0)
  const lines = stdout.trimEnd().split('\n')
  assert.equal(lines.length, 1)
  const told = JSON.parse(lines[0] ?? '')
  assert.deepEqual([told.v, told.path, told.toml], [1, ann.config, ann.read()])
  assert.match(told.command, /^mesh-node init --yes --config \S+ --for java .*--cpus 1/)
  assert(told.proposals.length > 4)
  assert.match(ann.check(), /^cpus = 1 /m)
})

test('calibrate: measures, proposes, and leaves nothing behind', { timeout: 60_000 }, async () => {
  using ann = new Person()
  const data = join(ann.directory, 'data')
  const { code, stdout, stderr } = await ann.run(
    [MESH_NODE, 'calibrate', '--json', '--for', 'large-c', '--data', data].map(quoted).join(' '),
  )
  assert.equal(code, 0, stderr)
  assert.match(stderr, /measuring this machine: the disk/)
  const { v, jobs, machine, measured, proposals } = JSON.parse(stdout)
  assert.deepEqual([v, jobs, machine.disk.directory], [1, 'large-c', data])
  assert(measured.disk.writeBytesPerS > 0 && measured.starts.length > 0)
  const settings = proposals.map(({ setting }: { setting: string }) => setting)
  for (const setting of ['worker.cpus', 'worker.policy', 'store.quota', 'needs.memory'])
    assert(settings.includes(setting), setting)
  assert(!existsSync(data))
  assert.deepEqual(ann.files(), [])
  const wrong = await ann.run([MESH_NODE, 'calibrate', '--for', 'cobol'].map(quoted).join(' '))
  assert.equal(wrong.code, 2)
  assert.match(
    wrong.stderr,
    /error\[MESH0002\]: --for "cobol".*\n {2}help: one of c, large-c, java, mixed/,
  )
})

test(
  'init: a machine that was set up with it joins the mesh and builds',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const root = await mesh.start({ name: 'first', role: 'root,store' })
    using ann = new Person()
    const parent = root.file.listen.flatMap((address) => ['--parent', address])
    const more = ['--name', 'second', '--http', '127.0.0.1:0', '--policy', 'dedicated', '--yes']
    const set = await ann.run(ann.command(...parent, ...more))
    assert.equal(set.code, 0, set.stderr)
    assert.match(set.stdout, /^listen = \["none"\]$/m)
    const second = spawn(MESH_NODE, ['run', '--config', ann.config], { stdio: 'ignore' })
    const gone = once(second, 'exit')
    try {
      const desk = mesh.desk(root)
      await desk.untilReady('second')
      const { stdout } = await desk.mesh('run', '--', 'sh', '-c', 'echo built on $MESH_NODE')
      assert.equal(stdout, 'built on second\n')
    } finally {
      second.kill()
      await gone
    }
  },
)
