/** The data directory: one daemon at a time, nothing stale, and node.json. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { test } from 'node:test'
import { openNodeDirectory } from '../../src/node/process/node-directory.ts'
import type { NodeFile } from '../../src/wire/node-file.ts'

const NO_FLOCK = 'mesh-no-such-program'

async function temporary() {
  const root = await mkdtemp(join(tmpdir(), 'mesh-dir-'))
  return {
    root,
    options: { path: join(root, 'data'), temporary: root },
    [Symbol.asyncDispose]: () => rm(root, { recursive: true }),
  }
}

const nodeFile = (socket: string): NodeFile => ({
  v: 1,
  name: 'a',
  peerId: '12D3KooWGatU38nUxa2UFZ9hKsn9ZEjVQZbXrBVcqZMfXhvBVrBe',
  listen: [],
  http: 'http://127.0.0.1:1',
  socket,
  pid: process.pid,
  protocols: [],
})

/** Another process that has the directory until it is killed. */
async function otherDaemon(options: { path: string; temporary: string; flock?: string }) {
  const module = new URL('../../src/node/process/node-directory.ts', import.meta.url).href
  const program = `
    const { openNodeDirectory } = await import(${JSON.stringify(module)})
    const directory = await openNodeDirectory(${JSON.stringify(options)})
    await directory.publish(${JSON.stringify(nodeFile('/s'))})
    await (await import('node:fs/promises')).writeFile(directory.socketPath, '')
    console.log('held')
    process.stdin.resume()`
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const [line]: unknown[] = await once(createInterface(child.stdout), 'line')
  assert.equal(line, 'held')
  return {
    pid: child.pid,
    async [Symbol.asyncDispose]() {
      if (child.exitCode === null && child.signalCode === null) {
        const exited = once(child, 'exit')
        child.kill('SIGKILL')
        await exited
      }
    },
  }
}

const modeOf = async (path: string) => (await stat(path)).mode & 0o777

test('node directory: made private, described by node.json, left clean', async () => {
  await using place = await temporary()
  const { path } = place.options
  await mkdir(path)
  await chmod(path, 0o755)
  const directory = await openNodeDirectory(place.options)
  assert.equal(await modeOf(path), 0o700)
  assert.equal(directory.socketPath, join(path, 'node.sock'))
  await directory.publish(nodeFile('/other'))
  await directory.publish(nodeFile(directory.socketPath))
  const text = await readFile(join(path, 'node.json'), 'utf8')
  assert.deepEqual(JSON.parse(text), nodeFile(directory.socketPath))
  await writeFile(directory.socketPath, '')
  await directory[Symbol.asyncDispose]()
  await directory[Symbol.asyncDispose]()
  assert.deepEqual(await readdir(path), ['lock'])
})

for (const flock of [undefined, NO_FLOCK]) {
  const how = flock === undefined ? '' : ', without flock(1)'

  test(`node directory: a second daemon is told the pid of the first${how}`, async () => {
    await using place = await temporary()
    const options = { ...place.options, ...(flock === undefined ? {} : { flock }) }
    await using other = await otherDaemon(options)
    await assert.rejects(openNodeDirectory(options), {
      code: 'MESH0105',
      exit: 69,
      message: `the data directory ${options.path} is used by the daemon with pid ${other.pid}`,
    })
    assert((await readdir(options.path)).includes('node.json'), 'the other one keeps its node.json')
  })

  test(`node directory: what a killed daemon left is taken over and cleared${how}`, async () => {
    await using place = await temporary()
    const options = { ...place.options, ...(flock === undefined ? {} : { flock }) }
    {
      await using _ = await otherDaemon(options)
    }
    assert.deepEqual((await readdir(options.path)).toSorted(), ['lock', 'node.json', 'node.sock'])
    await using _ = await openNodeDirectory(options)
    assert.deepEqual(await readdir(options.path), ['lock'])
  })
}

test('node directory: of many that start at once, one gets it', async () => {
  await using place = await temporary()
  const results = await Promise.allSettled(
    Array.from({ length: 8 }, () => openNodeDirectory(place.options)),
  )
  const held = results.filter((result) => result.status === 'fulfilled')
  assert.equal(held.length, 1)
  for (const { value } of held) await value[Symbol.asyncDispose]()
})

test('node directory: a pid that now belongs to another process holds nothing', async () => {
  await using place = await temporary()
  await mkdir(place.options.path)
  const parent = { pid: process.ppid, startTicks: '1' }
  for (const text of [JSON.stringify(parent), '{"pid":', '', 'null']) {
    await writeFile(join(place.options.path, 'lock'), text)
    await using _ = await openNodeDirectory({ ...place.options, flock: NO_FLOCK })
  }
})

test('node directory: a socket whose path would be too long gets a short private one', async () => {
  await using place = await temporary()
  const options = { path: join(place.root, 'd'.repeat(100)), temporary: place.root }
  const directory = await openNodeDirectory(options)
  const { socketPath } = directory
  assert(Buffer.byteLength(socketPath) <= 107)
  assert.equal(await modeOf(join(socketPath, '..')), 0o700)
  await directory[Symbol.asyncDispose]()
  {
    await using again = await openNodeDirectory(options)
    assert.equal(again.socketPath, socketPath)
  }
  await chmod(join(socketPath, '..'), 0o777)
  await using careful = await openNodeDirectory(options)
  assert.notEqual(careful.socketPath, socketPath)
  assert.equal(await modeOf(join(careful.socketPath, '..')), 0o700)
})

test('node directory: a path that is no directory is a wrong setting', async () => {
  await using place = await temporary()
  await writeFile(place.options.path, '')
  await assert.rejects(openNodeDirectory(place.options), {
    code: 'MESH0104',
    exit: 2,
    where: place.options.path,
  })
})
