/** Images in a mesh of real processes: put, named, kept, used, captured, and there again after the root was killed. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { z } from 'zod'
import { lastJson } from '../../scripts/cluster.ts'
import { NodeView } from '../../src/wire/api.ts'
import { ImageView } from '../../src/wire/images.ts'
import { freePort, openMesh, submitted, tcp, until } from './meshes.ts'

const view = (ended: { code: number; stdout: string; stderr: string }): ImageView => {
  assert.equal(ended.code, 0, ended.stderr)
  return ImageView.parse(lastJson(ended))
}

test(
  'images: names survive the root, trees are kept on the store node, derivations are built in them',
  { timeout: 240_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const listen = tcp(await freePort())
    const root = await mesh.start({ name: 'root', role: 'root', listen })
    const w1 = await mesh.start({
      name: 'w1',
      role: 'worker,store',
      listen: 'none',
      parents: [root],
    })
    const desk = mesh.desk(root)
    const [node] = await desk.untilReady('w1')
    // A shell and what every machine has.
    const captured = await desk.mesh('image', 'capture', 'sh', '--name', 'base', '--json')
    assert.equal(captured.code, 0, captured.stderr)
    const base = await desk.ask(ImageView, '/api/images/base')
    assert.deepEqual([base?.stores, base?.from.name, base?.version], [['w1'], 'root', 1])
    assert.equal(base?.system, node?.environments[0]?.system)

    // A directory, and the same as an archive, from the other end of the mesh.
    const other = mesh.desk(w1)
    mkdirSync(join(other.directory, 'layer/opt'), { recursive: true })
    writeFileSync(join(other.directory, 'layer/opt/word'), 'from the layer\n')
    const refused = await other.mesh('image', 'put', 'layer', 'layer', '--json')
    assert.equal(refused.code, 2, refused.stdout)
    assert.match(refused.stdout, /no program that tells what system/)
    const put = view(
      await other.mesh('image', 'put', 'layer', 'layer', '--system', 'any', '--json'),
    )
    execFileSync('tar', [
      '-C',
      join(other.directory, 'layer'),
      '-czf',
      join(desk.directory, 'l.tgz'),
      '.',
    ])
    const again = view(
      await desk.mesh('image', 'put', 'layer', 'l.tgz', '--system', 'any', '--json'),
    )
    assert.deepEqual([again.digest, again.version], [put.digest, 1])

    // Names of children of the root are those of the root, which is killed without a word.
    await root.kill()
    const cut = await other.mesh('image', 'ls', '--json')
    assert.equal(cut.code === 0, false, 'names were told without the root')
    const back = await mesh.start({ name: 'root', role: 'root', listen })
    const here = mesh.desk(back)
    await here.untilReady('w1')
    const images = (await here.ask(z.array(ImageView), '/api/images')) ?? []
    assert.deepEqual(
      images.map(({ name, digest, version }) => [name, digest, version]),
      [
        ['base', base?.digest, 1],
        ['layer', put.digest, 1],
      ],
    )
    await until('the root to know again who keeps them', async () => {
      const known = await here.ask(z.array(ImageView), '/api/images')
      return known?.every(({ stores }) => stores[0] === 'w1') === true ? true : undefined
    })

    // Nothing of it may go.
    const unknown = await other.mesh('run', '--image', 'bas', '--', 'true')
    assert.match(unknown.stderr, /there is no image "bas"[\s\S]*did you mean base/)
    const pins = await other.mesh('pin')
    assert.match(pins.stdout, /image base for 12D3KooW/)
    assert.match(pins.stdout, /image layer for 12D3KooW/)

    const nodes = (await here.ask(z.array(NodeView), '/api/nodes')) ?? []
    const builds = nodes.some(({ environments }) =>
      environments.some(({ isolation }) => isolation === 'image'),
    )
    if (!builds) {
      t.skip('this machine cannot build in images: mesh-node calibrate tells why')
      return
    }
    const file = here.write(
      'g.mesh.toml',
      `mesh = 1
[defaults]
needs.image = ["layer", "base"]
[derivation.words]
builder = "/bin/sh"
args = ["-c", "cat /opt/word > $out; ls /usr/bin | wc -l >> $out"]
[derivation.tree]
builder = "/bin/sh"
args = ["-c", "mkdir -p $out/opt; echo built > $out/opt/word"]
[derivation.inside]
builder = "/bin/sh"
args = ["-c", "cat /opt/word > $out"]
needs.image = [{ output = "tree" }, "base"]
`,
    )
    const ended = await here.mesh('submit', file, '--json')
    assert.equal(ended.code, 0, ended.stderr)
    assert.equal(submitted(ended).jobs.built, 3)
    const [word, programs] = here.read('result/words').split('\n')
    assert.equal(word, 'from the layer')
    assert.ok(Number(programs) < 150, `the host's own ${programs} programs are seen`)
    assert.equal(here.read('result/inside'), 'built\n')

    const removed = view(await other.mesh('image', 'rm', 'layer', '--json'))
    assert.equal(removed.digest, put.digest)
    await until('the pin to go', async () => {
      const { stdout } = await other.mesh('pin')
      return stdout.includes('image layer') ? undefined : true
    })
    const gone = await other.mesh('image', 'show', 'layer', '--json')
    assert.equal(gone.code, 5, gone.stdout)
  },
)

const C = `#include <math.h>
#include <stdio.h>
int main(int count, char **words) { printf("%s %f\\n", words[0], sqrt(count)); return 0; }
`
const CC = `#include <iostream>
#include <map>
#include <string>
int main() { std::map<std::string, int> m{{"a", 1}}; for (auto &[k, v] : m) std::cout << k << v << std::endl; }
`
const MAKEFILE = `all: $(out)/c $(out)/cc $(out)/static $(out)/lto
$(out)/c: main.c ; cc -O2 -g -o $@ main.c -lm
$(out)/cc: main.cc ; c++ -O2 -std=c++17 -o $@ main.cc
$(out)/static: main.c ; gcc -static -O2 -o $@ main.c -lm
$(out)/lto: main.c ; gcc -flto -O2 -o $@ main.c -lm
`

test(
  'images: captured compilers give bit for bit what they give on the host',
  { timeout: 240_000 },
  async (t) => {
    const missing = ['gcc', 'g++', 'make'].filter((tool) => !existsSync(`/usr/bin/${tool}`))
    if (missing.length > 0) {
      t.skip(`this machine has no ${missing.join(', ')}`)
      return
    }
    await using mesh = await openMesh(t)
    const root = await mesh.start({ name: 'root', role: 'root,worker,store', listen: 'none' })
    const desk = mesh.desk(root)
    const [node] = await desk.untilReady('root')
    if (node?.environments.some(({ isolation }) => isolation === 'image') !== true) {
      t.skip('this machine cannot build in images: mesh-node calibrate tells why')
      return
    }
    const dry = await desk.mesh('image', 'capture', 'gcc', '--no-base', '--dry-run', '--json')
    assert.equal(dry.code, 0, dry.stderr)
    const captured = await desk.mesh('image', 'capture', 'gcc', 'g++', 'make', '--name', 'cc')
    assert.equal(captured.code, 0, captured.stderr)
    for (const [name, text] of [
      ['main.c', C],
      ['main.cc', CC],
      ['Makefile', MAKEFILE],
    ] as const)
      desk.write(name, text)
    const derivation = (name: string, image: string): string => `
[derivation.${name}]
builder = "/bin/sh"
args = ["-c", "mkdir $out && make out=$out"]
inputs = { "main.c" = { path = "main.c" }, "main.cc" = { path = "main.cc" }, "Make.file" = { path = "Makefile" } }
${image}`
    const file = desk.write(
      'g.mesh.toml',
      `mesh = 1
${derivation('host', '').replace('make out', 'make -f Make.file out')}
${derivation('image', 'needs.image = "cc"').replace('make out', 'make -f Make.file out')}`,
    )
    const ended = await desk.mesh('submit', file, '--json')
    assert.equal(ended.code, 0, ended.stderr)
    const { outputs, jobs } = submitted(ended)
    assert.equal(jobs.built, 2)
    assert.equal(outputs['image']?.['out']?.cid, outputs['host']?.['out']?.cid)
    const { stdout } = spawnSync(join(desk.directory, 'result/image/c'), { encoding: 'utf8' })
    assert.match(stdout, /1\.000000\n$/)
  },
)
