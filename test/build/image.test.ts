/** Builds that have an image as their root: what they see of it, and that nothing of it changes. */
import assert from 'node:assert/strict'
import { chmod, copyFile, mkdir, mkdtemp, readFile, symlink, writeFile } from 'node:fs/promises'
import { access } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { imageRoot } from '../../src/build/image-root.ts'
import { QEMU_FORMATS } from '../../src/build/probe/emulators.ts'
import { probeSystems, systemOfKernel } from '../../src/build/probe/systems.ts'
import { ELF_KINDS, makeTrialProgram, TRIAL_EXIT } from '../../src/build/probe/trial-program.ts'
import { removeTree } from '../../src/files/workers/remove-job.ts'
import { Builds, type Ran } from './builds.ts'

/** One static program that is a whole userland (Debian: busybox-static). */
const BUSYBOX = '/bin/busybox'
const hasBusybox = await access(BUSYBOX).then(
  () => true,
  () => false,
)
const skip = hasBusybox ? false : 'busybox-static is not installed'

let builds: Builds
let images: string
before(async () => {
  builds = await Builds.open()
  images = await mkdtemp(join(tmpdir(), 'mesh-image-'))
  await chmod(images, 0o755)
})
after(async () => {
  await builds[Symbol.asyncDispose]()
  await removeTree(images)
})

/** A layer with these files; a text that begins with `->` is a link. */
async function layer(name: string, files: Readonly<Record<string, string>>): Promise<string> {
  const directory = join(images, name)
  for (const [path, content] of Object.entries(files)) {
    const file = join(directory, path)
    await mkdir(join(file, '..'), { recursive: true })
    if (content.startsWith('->')) await symlink(content.slice(2), file)
    else await writeFile(file, content)
  }
  return directory
}

async function busybox(name: string, more: Readonly<Record<string, string>> = {}): Promise<string> {
  const tools = ['sh', 'ls', 'cat', 'id', 'uname', 'rm', 'touch', 'stat', 'mkdir', 'env', 'chmod']
  const links = Object.fromEntries(tools.map((tool) => [`bin/${tool}`, '->busybox']))
  const directory = await layer(name, { ...links, ...more })
  await copyFile(BUSYBOX, join(directory, 'bin/busybox'))
  return directory
}

async function inImage(script: string, layers: readonly string[], is32Bit = false): Promise<Ran> {
  const image = { layers, is32Bit }
  return builds.run(['/bin/sh', '-c', script], { isolation: 'image', image })
}

test('image: this machine can enter images, or says why not', () => {
  assert.equal(builds.sandbox.imageProblem, undefined)
})

test(
  'image: the build sees the image and nothing of the host, and owns all of it',
  { skip },
  async () => {
    const base = await busybox('seen', { 'etc/issue': 'of the image\n' })
    const ran = await inImage(
      'id -u; cat /etc/issue; ls /; ls /usr 2>&1; stat -c %u /etc/issue /bin/busybox; cat /etc/hosts',
      [base],
    )
    assert.deepEqual(ran.outcome.end, { kind: 'exited', code: 0 }, ran.stderr)
    const lines = ran.stdout.trim().split('\n')
    assert.equal(lines[0], '1000')
    assert.equal(lines[1], 'of the image')
    assert.deepEqual(lines.slice(2, 8), ['bin', 'build', 'dev', 'etc', 'proc', 'tmp'])
    assert.match(ran.stdout, /\/usr: No such file/)
    assert.match(ran.stdout, /^1000\n1000$/m)
    assert.match(ran.stdout, /localhost mesh/)
  },
)

test('image: what a build changes is its own, and gone with it', { skip }, async () => {
  const base = await busybox('changed', { 'etc/issue': 'as it was\n' })
  const script =
    'echo other > /etc/issue && rm /bin/touch && mkdir /opt && echo x > /opt/made && chmod 700 /etc && cat /etc/issue'
  const first = await inImage(script, [base])
  assert.deepEqual(first.outcome.end, { kind: 'exited', code: 0 }, first.stderr)
  assert.equal(first.stdout, 'other\n')
  assert.equal(await readFile(join(base, 'etc/issue'), 'utf8'), 'as it was\n')
  const second = await inImage('cat /etc/issue; ls -d /bin/touch /opt', [base])
  assert.match(second.stdout, /as it was\n\/bin\/touch/)
  assert.match(second.stderr, /\/opt: No such file/)
  // The kernel's own directory in there belongs to nobody who may list it.
  await removeTree(first.directory)
})

test(
  'image: an upper layer hides what is below it, and they are seen as one',
  { skip },
  async () => {
    const base = await busybox('below', { 'etc/issue': 'base\n', 'etc/only-base': 'b\n' })
    const top = await layer('above', { 'etc/issue': 'top\n', 'etc/only-top': 't\n' })
    const ran = await inImage('cat /etc/issue /etc/only-base /etc/only-top', [top, base])
    assert.equal(ran.stdout, 'top\nb\nt\n', ran.stderr)
  },
)

test(
  'image: what an image has where the build needs something else makes room',
  { skip },
  async () => {
    const base = await busybox('odd', {
      tmp: '->/var/nowhere',
      'etc/hosts': '->/etc/elsewhere',
      'etc/passwd': 'root:x:0:0:of the image:/:/bin/sh\n',
      'dev/null': 'a file, and no device\n',
      'var/tmp/left': 'x',
    })
    const ran = await inImage(
      'cat /etc/passwd; cat /etc/hosts; echo y > /tmp/mine; echo z > /var/tmp/mine; echo gone > /dev/null; ls /var/tmp',
      [base],
    )
    assert.deepEqual(ran.outcome.end, { kind: 'exited', code: 0 }, ran.stderr)
    assert.match(ran.stdout, /of the image/)
    assert.match(ran.stdout, /localhost mesh/)
    assert.match(ran.stdout, /left\nmine/)

    const wrong = await busybox('wrong', { 'etc/hosts/in-the-way': 'x' })
    const refused = await inImage('true', [wrong])
    assert.equal(refused.outcome.end.kind, 'infrastructure')
    assert.match(JSON.stringify(refused.outcome.end), /has a directory at \/etc\/hosts/)
  },
)

test('image: a 32-bit image is told of a 32-bit kernel', { skip }, async () => {
  if (systemOfKernel() !== 'x86_64-linux') return
  const ran = await inImage('uname -m', [await busybox('narrow')], true)
  assert.equal(ran.stdout, 'i686\n', ran.stderr)
})

test('image: foreign programs run by an emulator that only their build knows of', async (context) => {
  const emulated = (await probeSystems()).filter(({ how }) => how === 'emulated')
  if (emulated.length === 0) {
    context.skip('no system is emulated here: qemu-user-static is not installed')
    return
  }
  for (const runnable of emulated) {
    const { system } = runnable
    const kind = ELF_KINDS.get(system)
    if (kind === undefined) continue
    const foreign = await layer(`foreign-${system}`, {})
    await mkdir(join(foreign, 'bin'), { recursive: true })
    await writeFile(join(foreign, 'bin/trial'), makeTrialProgram(kind), { mode: 0o755 })
    const ran = await builds.run(['/bin/trial'], {
      isolation: 'image',
      image: imageRoot([foreign], runnable),
    })
    assert.deepEqual(
      ran.outcome.end,
      { kind: 'exited', code: TRIAL_EXIT },
      `${system} ${ran.stderr}`,
    )
  }
})

test('image: the emulator’s registration cannot be changed by the build', { skip }, async () => {
  const system = 'aarch64-linux'
  const found = (await probeSystems()).find((one) => one.system === system)
  const format = QEMU_FORMATS.get(system)
  if (found?.interpreter === undefined || format === undefined) return
  const ran = await builds.run(
    [
      '/bin/sh',
      '-c',
      'echo -1 > /proc/sys/fs/binfmt_misc/status; echo 0 > /proc/sys/fs/binfmt_misc/mesh',
    ],
    {
      isolation: 'image',
      image: {
        layers: [await busybox('kept')],
        emulator: {
          program: found.interpreter,
          binary: `:${format.magic}:${format.mask}`,
          flags: 'F',
        },
      },
    },
  )
  assert.match(
    ran.stderr,
    /(?:Read-only file system|Permission denied)[\s\S]*(?:Read-only file system|Permission denied)/,
  )
})

test('image: weaker sandboxes say that they have none', async () => {
  await using weak = await Builds.open(['helper'])
  if (weak.sandbox.method === 'none') return
  assert.match(weak.sandbox.imageProblem ?? '', /has no images/)
  const ran = await weak.start(['/bin/true'], { isolation: 'image', image: { layers: [images] } })
  const { end } = await ran.build.outcome
  assert.match(JSON.stringify(end), /no images with the sandbox/)
})
