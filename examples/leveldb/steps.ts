/**
 * LevelDB 1.20 with snappy as a list of steps: what the mesh builds (graph.ts) and what make builds to
 * compare with (makefile.ts) are the same commands, from here.
 *
 * The sources are those that the npm package `classic-level` ships. Units, defines and flags follow its
 * leveldb.gyp and snappy.gyp for Linux.
 */
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

/** A file or tree of the sources, relative to their root, or what another step makes. */
type StepInput = { readonly file: string } | { readonly step: string }

/**
 * One command of /bin/sh. It finds each input at `./NAME` and all headers below `$headers`, and makes `$out`.
 */
export interface Step {
  readonly name: string
  readonly command: string
  readonly inputs: Readonly<Record<string, StepInput>>
  readonly needsHeaders: boolean
}

/** Where the sources are. `LEVELDB_SOURCES` names a changed copy of them. */
export function sourcesDirectory(): string {
  const changed = process.env['LEVELDB_SOURCES']
  if (changed !== undefined) return changed
  return join(dirname(createRequire(import.meta.url).resolve('classic-level/package.json')), 'deps')
}

const DEMO_SOURCE = join(import.meta.dirname, 'demo.cc')

const LEVELDB = 'leveldb/leveldb-1.20'
/** leveldb.gyp, `sources` for Linux: 38 units. */
const LEVELDB_UNITS: Readonly<Record<string, readonly string[]>> = {
  db: [
    'builder',
    'db_impl',
    'db_iter',
    'dbformat',
    'filename',
    'log_reader',
    'log_writer',
    'memtable',
    'repair',
    'table_cache',
    'version_edit',
    'version_set',
    'write_batch',
  ],
  'helpers/memenv': ['memenv'],
  port: ['port_posix', 'port_posix_sse'],
  table: [
    'block',
    'block_builder',
    'filter_block',
    'format',
    'iterator',
    'merger',
    'table',
    'table_builder',
    'two_level_iterator',
  ],
  util: [
    'arena',
    'bloom',
    'cache',
    'coding',
    'comparator',
    'crc32c',
    'env',
    'env_posix',
    'filter_policy',
    'hash',
    'logging',
    'options',
    'status',
  ],
}
/** snappy.gyp: 3 units. */
const SNAPPY_UNITS = ['snappy', 'snappy-sinksource', 'snappy-stubs-internal']

const CXX = '/usr/bin/c++ -std=c++11 -O2 -fPIC -pthread'
const LEVELDB_FLAGS = [
  '-fno-builtin-memcmp -Wno-sign-compare -Wno-unused-but-set-variable',
  '-DSNAPPY=1 -DLEVELDB_PLATFORM_POSIX=1 -DOS_LINUX=1',
  `-I"$headers/${LEVELDB}" -I"$headers/${LEVELDB}/include"`,
  '-I"$headers/snappy/linux" -I"$headers/snappy/snappy"',
].join(' ')
const SNAPPY_FLAGS = [
  '-Wno-sign-compare -Wno-unused-function -DHAVE_CONFIG_H=1',
  '-I"$headers/snappy/linux" -I"$headers/snappy/snappy"',
].join(' ')

function compile(name: string, source: string, flags: string): Step {
  const file = source.slice(source.lastIndexOf('/') + 1)
  return {
    name,
    command: `${CXX} ${flags} -c ${file} -o "$out"`,
    inputs: { [file]: { file: source } },
    needsHeaders: true,
  }
}

/** `D` leaves times and owners out of the archive: same objects, same bytes. */
function archive(name: string, units: readonly Step[]): Step {
  const inputs = Object.fromEntries(units.map((unit) => [`${unit.name}.o`, { step: unit.name }]))
  return {
    name,
    command: `/usr/bin/ar rcsD "$out" ${Object.keys(inputs).join(' ')}`,
    inputs,
    needsHeaders: false,
  }
}

/** In an order in which each step comes after what it uses; 41 units and 5 more. */
export function leveldbSteps(): readonly Step[] {
  const leveldb = Object.entries(LEVELDB_UNITS).flatMap(([folder, units]) =>
    units.map((unit) =>
      compile(
        `leveldb-${folder.replaceAll('/', '-')}-${unit}`,
        `${LEVELDB}/${folder}/${unit}.cc`,
        LEVELDB_FLAGS,
      ),
    ),
  )
  const snappy = SNAPPY_UNITS.map((unit) => compile(unit, `snappy/snappy/${unit}.cc`, SNAPPY_FLAGS))
  return [
    ...leveldb,
    ...snappy,
    archive('libleveldb', leveldb),
    archive('libsnappy', snappy),
    compile('demo-main', DEMO_SOURCE, LEVELDB_FLAGS),
    {
      name: 'demo',
      command: `${CXX} demo-main.o libleveldb.a libsnappy.a -o "$out"`,
      inputs: {
        'demo-main.o': { step: 'demo-main' },
        'libleveldb.a': { step: 'libleveldb' },
        'libsnappy.a': { step: 'libsnappy' },
      },
      needsHeaders: false,
    },
    {
      name: 'run',
      command: './demo.bin > "$out"',
      inputs: { 'demo.bin': { step: 'demo' } },
      needsHeaders: false,
    },
  ]
}
