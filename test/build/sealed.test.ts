/** What a sealed build is promised, on each sandbox method that this machine has. */
import assert from 'node:assert/strict'
import { chmod, lstat, mkdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { after, before, describe, test, type TestContext } from 'node:test'
import { removeTree } from '../../src/files/workers/remove-job.ts'
import {
  Builds,
  processesWith,
  SEALED_METHODS,
  uniqueSleep,
  until,
  type SealedMethod,
} from './builds.ts'

for (const method of SEALED_METHODS) {
  describe(`sealed by ${method}`, () => {
    let builds: Builds
    before(async () => {
      builds = await Builds.open(SEALED_METHODS.filter((other) => other !== method))
    })
    after(() => builds[Symbol.asyncDispose]())

    const check = (what: string, body: (context: TestContext) => Promise<void>): void => {
      test(`sealed by ${method}: ${what}`, async (context) => {
        if (builds.sandbox.method !== method) {
          const reason = builds.sandbox.reasons.find((line) => line.startsWith(`${method}:`))
          context.skip(`this machine cannot seal with ${reason}`)
          return
        }
        await body(context)
      })
    }
    contract(method, () => builds, check)
  })
}

function contract(
  method: SealedMethod,
  builds: () => Builds,
  check: (what: string, body: (context: TestContext) => Promise<void>) => void,
): void {
  check('identity, environment, directory, host name and stdin are fixed', async () => {
    const env = { PATH: '/usr/bin:/bin', A: `it's "two"\nlines`, out: '/build/out/out' }
    assert.equal(
      await builds().output('id -u; id -g; id -un; pwd -P; wc -c; umask', { env }),
      '1000\n1000\nbuild\n/build/work\n0\n0022\n',
    )
    const names = (await builds().run(['/usr/bin/env', '-0'], { env })).stdout
      .split('\0')
      .filter((line) => line !== '')
    assert.deepEqual(
      names.toSorted(),
      Object.entries(env)
        .map(([name, value]) => `${name}=${value}`)
        .toSorted(),
    )
    assert.equal(await builds().output('cat /proc/sys/kernel/hostname'), 'mesh\n')
    assert.match(
      await builds().output('grep -E "^(Cap|NoNew)" /proc/self/status'),
      /^(?:Cap\w+:\t0+\n){5}NoNewPrivs:\t1\n$/,
    )
  })

  check('inputs are in their places and cannot be changed', async () => {
    const store = join(builds().directory, `store ${method}`)
    await mkdir(join(store, 'tree', 'sub'), { recursive: true })
    await writeFile(join(store, 'blob'), 'blob', { mode: 0o444 })
    await writeFile(join(store, 'tree', 'sub', 'file'), 'file')
    await symlink('/etc', join(store, 'tree', 'etc'))
    await chmod(join(store, 'tree', 'sub', 'file'), 0o666)
    await chmod(join(store, 'tree', 'sub'), 0o777)
    const inputs = [
      { path: '/build/in/a', source: { kind: 'file', hostPath: join(store, 'blob') } },
      { path: '/build/in/dir', source: { kind: 'dir', hostPath: join(store, 'tree') } },
      { path: '/build/in/link', source: { kind: 'symlink', target: 'a' } },
      { path: '/build/work/main.c', source: { kind: 'file', hostPath: join(store, 'blob') } },
      { path: '/build/work/t.d', source: { kind: 'dir', hostPath: join(store, 'tree') } },
    ] as const
    assert.equal(
      await builds().output(
        'cat ./main.c /build/in/link t.d/sub/file; readlink /build/in/link /build/in/dir/etc',
        { inputs },
      ),
      'blobblobfilea\n/etc\n',
    )
    for (const attack of [
      'echo x > main.c',
      'echo x > /build/in/a',
      'echo x >> /build/in/dir/sub/file',
      'echo x > t.d/sub/new',
      'rm -f main.c',
      'mv main.c other',
      'rm -rf /build/in/dir/sub',
      'chmod 777 main.c',
      'touch /build/in/new',
      'ln /build/in/a /build/out/hard',
      'mount -o remount,rw,bind /build/in/dir',
      'umount main.c',
      'umount -l /build/in/dir',
    ])
      await refused(builds(), attack, { inputs })
    assert.equal(await readFile(join(store, 'blob'), 'utf8'), 'blob')
    assert.equal(await readFile(join(store, 'tree', 'sub', 'file'), 'utf8'), 'file')
  })

  check('a bad specification is refused, and costs nothing else', async () => {
    const other = builds().run('echo fine')
    const source = { kind: 'file', hostPath: '/etc/passwd' } as const
    for (const [more, message] of [
      [
        {
          inputs: [
            { path: '/build/in/a', source },
            { path: '/build/in/a/up/b', source },
          ],
        },
        /in another/,
      ],
      [{ inputs: [{ path: '/build/in/../../etc/passwd', source }] }, /canonical/],
      [{ inputs: [{ path: '/etc/passwd', source }] }, /below \/build/],
      [{ argv: ['a\0b'] }, /NUL/],
      [{ env: { 'A=B': '' } }, /env/],
      [{ cwd: '/build/out' }, /build\/work/],
    ] as const) {
      const { build } = await builds().start('true', more)
      const { end } = await build.outcome
      assert(end.kind === 'infrastructure')
      assert.match(end.message, message)
    }
    assert.equal((await other).stdout, 'fine\n')
  })

  check('the tools and the root cannot be written, mounted over or uncovered', async () => {
    for (const attack of [
      'touch /usr/mesh-was-here',
      'touch /bin/mesh-was-here',
      'touch /etc/mesh-was-here',
      'echo x >> /etc/passwd',
      'touch /mesh-was-here',
      'touch /build/mesh-was-here',
      'touch /dev/mesh-was-here',
      'mount -o remount,rw /usr',
      'mount -o remount,rw,bind /usr',
      'mount -o remount,rw,bind /',
      'umount -l /usr',
      'umount /proc',
      'mount -t tmpfs none /build/tmp',
      'mount --bind /build/work /usr',
      'mount -t proc proc /build/tmp',
      'unshare -Urm true',
      'unshare -U true',
      'mknod /build/tmp/disk b 8 0',
      '/usr/sbin/chroot / true',
      'hostname other',
      'echo 1 > /proc/sys/vm/drop_caches',
      'echo x > /proc/sys/kernel/core_pattern',
      'echo 9 > /proc/sys/user/max_user_namespaces',
    ])
      await refused(builds(), attack)
    await assert.rejects(lstat('/usr/mesh-was-here'), { code: 'ENOENT' })
  })

  check("the host's files are not there", async () => {
    const secret = join(builds().directory, 'secret')
    await writeFile(secret, 'secret', { mode: 0o644 })
    for (const path of [
      '/root',
      '/home',
      '/run',
      '/sys',
      '/srv',
      '/mnt',
      '/var/lib',
      '/etc/shadow',
      '/etc/hostname',
      '/dev/sda',
      '/dev/kmsg',
      '/dev/mem',
      secret,
    ])
      assert.equal(await builds().output(`if [ -e '${path}' ]; then echo there; fi`), '', path)
  })

  check("the host's loopback is out of reach, the own one is up", async (context) => {
    await using server = createServer((socket) => socket.end('hello')).listen(0, '127.0.0.1')
    await new Promise((resolve) => server.once('listening', resolve))
    const address = server.address()
    assert(typeof address === 'object' && address !== null)
    const connect = ['/bin/bash', '-c', `exec 3<>/dev/tcp/127.0.0.1/${address.port} && cat <&3`]
    assert.equal((await builds().run(connect, { network: true })).stdout, 'hello')
    const sealed = await builds().run(connect)
    assert.deepEqual(sealed.outcome.end, { kind: 'exited', code: 1 })
    if (method === 'unshare' && sealed.stderr.includes('unreachable'))
      context.diagnostic('unshare: no `ip` on this machine, so the loopback is down')
    else assert.match(sealed.stderr, /refused/i)
    assert.equal(
      await builds().output(
        'cat /proc/net/dev | tail -n +3 | cut -d: -f1 | grep -v "lo$" | grep -vE "tunl|sit|ip6|gre|erspan|vti" || true',
      ),
      '',
    )
  })

  check("the host's processes cannot be seen or signalled", async () => {
    assert.equal(
      await builds().output(`if kill -0 ${process.pid} 2>/dev/null; then echo alive; fi`),
      '',
    )
    const pids = (await builds().output('cd /proc; echo [0-9]*')).trim().split(' ').map(Number)
    assert(pids.length < 10 && Math.max(...pids) < 500, pids.join(' '))
    const { outcome } = await builds().run('kill -9 -1; exit 5')
    // bubblewrap and unshare have their reporting shell among what the build can kill.
    assert(
      outcome.end.kind === 'exited' || outcome.end.kind === 'signalled',
      JSON.stringify(outcome.end),
    )
    assert(outcome.usage.wallMs < 30_000)
    assert.equal(await builds().output('echo still here'), 'still here\n')
  })

  check('how the build ended is told apart from what the sandbox met', async () => {
    const end = async (...argv: string[]): Promise<unknown> =>
      (await builds().run(argv)).outcome.end
    assert.deepEqual(await end('true'), { kind: 'exited', code: 0 })
    assert.deepEqual(await end('/bin/sh', '-c', 'exit 3'), { kind: 'exited', code: 3 })
    assert.deepEqual(await end('sh', '-c', 'exit 127'), { kind: 'exited', code: 127 })
    assert.deepEqual(await end('sh', '-c', 'exit 125'), { kind: 'exited', code: 125 })
    assert.deepEqual(
      await end('sh', '-c', 'kill -SEGV $$'),
      // A shell reports for the weaker methods, and knows only 128 + the signal.
      method === 'helper'
        ? { kind: 'signalled', signal: 'SIGSEGV' }
        : { kind: 'exited', code: 139 },
    )
    for (const builder of ['nowhere', './nowhere', '/build/in/nowhere', '/etc/passwd', '/usr']) {
      const { outcome, records } = await builds().run([builder])
      assert.equal(outcome.end.kind, 'builder-not-found', builder)
      assert(outcome.end.kind === 'builder-not-found' && outcome.end.message.startsWith(builder))
      assert.equal(records.length, 0)
    }
    const missing = {
      path: '/build/in/a',
      source: { kind: 'file', hostPath: '/nowhere/blob' },
    } as const
    const { outcome } = await builds().run('true', { inputs: [missing] })
    assert(outcome.end.kind === 'infrastructure', JSON.stringify(outcome.end))
    assert.match(outcome.end.message, /\/nowhere\/blob/)
  })

  check(
    'a script without a file name of its own is found in the PATH of its env, and `./` in its directory',
    async () => {
      const store = join(builds().directory, `path ${method}`)
      await mkdir(store)
      await writeFile(join(store, 'hello'), '#!/bin/sh\necho "$0" "$@"\n')
      await chmod(join(store, 'hello'), 0o555)
      const source = { kind: 'file', hostPath: join(store, 'hello') } as const
      const byPath = await builds().run(['hello', "a b'c"], {
        env: { PATH: '/usr/bin:/build/in' },
        inputs: [{ path: '/build/in/hello', source }],
      })
      assert.equal(byPath.stdout, "/build/in/hello a b'c\n")
      const byDot = await builds().run(['./hello.sh', '', '*'], {
        inputs: [{ path: '/build/work/hello.sh', source }],
      })
      assert.equal(byDot.stdout, './hello.sh  *\n')
    },
  )

  check('what the build leaves running dies with it', async () => {
    const mark = uniqueSleep()
    const { outcome } = await builds().run(
      `setsid sleep ${mark} </dev/null >/dev/null 2>&1 & (sleep ${mark} &); exit 0`,
    )
    assert.deepEqual(outcome.end, { kind: 'exited', code: 0 })
    assert.deepEqual(await processesWith(mark), [])
    assert(outcome.usage.wallMs < 10_000)
  })

  check('timeout, silence, a flood and a cancel kill all of it and are told', async () => {
    const mark = uniqueSleep()
    const script = `(setsid sleep ${mark} &) ; trap '' TERM INT HUP; sleep ${mark}`
    const limits = { timeoutMs: 60_000, maxSilentMs: 60_000, maxLogBytes: 4096 }
    const timeout = await builds().run(script, { limits: { ...limits, timeoutMs: 300 } })
    assert.deepEqual(timeout.outcome.end, { kind: 'limit', limit: 'timeout' })
    const silent = await builds().run(`echo begin; ${script}`, {
      limits: { ...limits, maxSilentMs: 300 },
    })
    assert.deepEqual(silent.outcome.end, { kind: 'limit', limit: 'silent' })
    assert.equal(silent.stdout, 'begin\n')
    const flood = await builds().run('yes', { limits })
    assert.deepEqual(flood.outcome.end, { kind: 'limit', limit: 'log' })
    assert(
      flood.outcome.logBytes > 4000 && flood.outcome.logBytes < 4300,
      `${flood.outcome.logBytes}`,
    )
    const { build } = await builds().start(`echo begin; ${script}`)
    await new Promise<void>((resolve) => build.onLog(() => resolve()))
    build.cancel()
    assert.deepEqual((await build.outcome).end, { kind: 'cancelled' })
    assert.deepEqual(await processesWith(mark), [])
  })

  check('limits change while it runs', async () => {
    const { build } = await builds().start('echo begin; sleep 1000', {
      limits: { timeoutMs: 1_000_000, maxSilentMs: 1_000_000, maxLogBytes: 4096 },
    })
    await new Promise<void>((resolve) => build.onLog(() => resolve()))
    build.setLimits({ timeoutMs: 100, maxSilentMs: 1_000_000, maxLogBytes: 4096 })
    assert.deepEqual((await build.outcome).end, { kind: 'limit', limit: 'timeout' })
  })

  check('a cancel at any moment of the set-up ends it', async () => {
    const mark = uniqueSleep()
    for (const turns of [0, 1, 5, 25]) {
      const { build } = await builds().start(`sleep ${mark}`)
      for (let turn = 0; turn < turns; turn++) await new Promise(setImmediate)
      build.cancel()
      assert.deepEqual((await build.outcome).end, { kind: 'cancelled' })
    }
    assert.deepEqual(await processesWith(mark), [])
  })

  check('stdout and stderr keep their bytes and can be opened by name', async () => {
    const ran = await builds().run(
      String.raw`printf 'a\000\377\n'; echo b > /dev/stderr; echo c > /dev/stdout; echo d >> /dev/fd/2`,
    )
    assert.deepEqual(ran.outcome.end, { kind: 'exited', code: 0 }, ran.stderr)
    assert.equal(ran.stdout, 'a\0\xff\nc\n')
    assert.equal(ran.stderr, 'b\nd\n')
    const big = await builds().output('head -c 700000 /dev/zero | tr "\\0" x')
    assert.equal(big.length, 700_000)
  })

  check('outputs are ours afterwards, and everything can be removed', async () => {
    const ran = await builds().run(
      `mkdir -p /build/out/out/d; echo hi > /build/out/out/d/f; ln -s /etc/passwd /build/out/link; chmod 0 /build/out/out/d/f /build/out/out/d
       mkdir -p /build/work/x/y /tmp/z; echo > /tmp/z/f; chmod 0 /build/work/x/y /build/work/x /build/tmp/z; printf x > "$(printf '/build/work/\\377')"
       cd /build/home; i=0; while [ $i -lt 300 ]; do mkdir aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; cd aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; i=$((i+1)); done`,
    )
    assert.deepEqual(ran.outcome.end, { kind: 'exited', code: 0 }, ran.stderr)
    for (const path of ['out', 'out/out', 'out/out/d', 'out/out/d/f', 'out/link'])
      assert.equal((await lstat(join(ran.directory, path))).uid, process.geteuid?.(), path)
    assert.equal(await readFile(join(ran.directory, 'out/out/d/f'), 'utf8'), 'hi\n')
    await removeTree(ran.directory)
    await assert.rejects(lstat(ran.directory), { code: 'ENOENT' })
  })

  check('usage counts all processes', async () => {
    const { outcome } = await builds().run('(i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done)')
    assert(
      outcome.usage.cpuMs >= 20 && outcome.usage.wallMs >= outcome.usage.cpuMs / 4,
      JSON.stringify(outcome.usage),
    )
    // Shells cannot ask for the memory of their children.
    assert(
      method === 'helper' ? outcome.usage.maxRssBytes > 100_000 : outcome.usage.maxRssBytes === 0,
    )
  })

  check('1,500 inputs are set up in a moment', async (context) => {
    const blob = join(builds().directory, 'many')
    await writeFile(blob, 'x')
    const inputs = Array.from({ length: 1500 }, (_, at) => ({
      path: `/build/in/n${String(at).padStart(4, '0')}`,
      source: { kind: 'file', hostPath: blob } as const,
    }))
    const { outcome, stdout } = await builds().run('ls /build/in | wc -l', { inputs })
    assert.equal(stdout, '1500\n')
    context.diagnostic(`${method}: ${outcome.usage.wallMs} ms with 1,500 inputs`)
    // bubblewrap looks through all mounts for each of them.
    assert(outcome.usage.wallMs < (method === 'helper' ? 2000 : 30_000))
  })

  check('many builds run at once', async () => {
    const ran = await Promise.all(
      Array.from({ length: 20 }, (_, at) =>
        builds().run(`echo ${at} > /build/out/out; cat /build/out/out`),
      ),
    )
    assert.deepEqual(
      ran.map(({ stdout }) => stdout),
      ran.map((_, at) => `${at}\n`),
    )
  })

  check('a killed executor process takes its builds with it, and another one starts', async () => {
    const mark = uniqueSleep()
    const { build } = await builds().start(`echo begin; (setsid sleep ${mark} &); sleep ${mark}`)
    await new Promise<void>((resolve) => build.onLog(() => resolve()))
    const [executor] = await processesWith(
      JSON.stringify({
        directory: builds().directory,
        forbid: SEALED_METHODS.filter((other) => other !== method),
      }),
    )
    assert(executor !== undefined)
    process.kill(executor, 'SIGKILL')
    assert.equal((await build.outcome).end.kind, 'infrastructure')
    await until('the builds are dead', async () => (await processesWith(mark)).length === 0)
    assert.equal(await builds().output('echo again'), 'again\n')
  })
}

async function refused(
  builds: Builds,
  attack: string,
  more: Parameters<Builds['run']>[1] = {},
): Promise<void> {
  const { outcome, stderr } = await builds.run(attack, more)
  assert(
    outcome.end.kind === 'exited' && outcome.end.code !== 0,
    `${attack}: ${JSON.stringify(outcome.end)}`,
  )
  assert.doesNotMatch(stderr, /not found$/m, `${attack} was not even tried`)
}
