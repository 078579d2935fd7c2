"""Every field of a run, with its default and its meaning.

An experiment is a file that starts from this one and changes some fields:

  from configs import default

  def get_config():
    config = default.get_config()
    config.model.name = 'resnet34'
    return config

  python main.py --config=configs/my_experiment.py --workdir=/tmp/run --config.num_epochs=5

The sections `model`, `optimizer`, `schedule` and `proxy.model` hold a `name` and the arguments of
the model, optimizer or schedule of that name. An experiment may add arguments there
(`config.schedule.warmup_epochs = 5`) and in `data.options`. None stands for an argument's default.
No other field can be added: an unknown field is an error.

A pattern is a regular expression that may match any part of a parameter's path, such as
'stage1_block1/conv1/kernel'. Of several (pattern, value) pairs, the first that matches counts.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()

  config.seed = 0  # decides initialisation, order, augmentation and dropout
  # The number of seeds (seed, seed + 1, ...) that train independently, but in one program. The
  # results have each seed and the mean over seeds.
  config.num_seeds = 1

  config.num_epochs = 10  # passes over the training examples
  config.last_epoch = 1.0  # fraction of the last epoch to train: 10 epochs with 0.9 are 9.9
  config.batch_size = 128  # examples per step, over all devices and processes
  config.eval_batch_size = 1000  # the same for evaluation; results change by rounding at most

  # Type of the computation: 'float32', 'bfloat16', or 'auto', which is bfloat16 on devices with
  # bfloat16 units (TPUs, GPUs from Ampere on, CPUs with AMX or AVX512-BF16), else float32.
  # Parameters, statistics and losses are always float32. float32 networks never use TF32.
  config.dtype = "auto"

  config.model = ml_collections.ConfigDict()
  config.model.name = "resnet18"  # see docs/catalogue.md, or run `python main.py models`
  config.model.sync_bn = True  # batch norm over all devices, so that their number does not matter
  # Weights to start from: a run folder (its selected weights), a file of weights, a repository on
  # the Hugging Face hub (hf://owner/name), 'timm' (VGG-16's ImageNet weights), or '' for none;
  # docs/transfer.md has the details. optimizer.freeze says which weights never change.
  config.model.pretrained = ""

  config.data = ml_collections.ConfigDict()
  config.data.name = "cifar10"  # docs/catalogue.md lists the names
  config.data.dir = ""  # TFDS directory; '' is $TFDS_DATA_DIR or ~/tensorflow_datasets
  config.data.source = ""  # folder or archive to prepare from; '' tries the known sources in turn
  # Arguments of the dataset, such as size=150, per_class=2000 for photos.
  config.data.options = ml_collections.ConfigDict()
  config.data.fallback = ""  # dataset to train on if `name` is unavailable; '' for none
  # Validation examples, taken out of the training set: a fraction or a count, drawn with
  # split_seed and stratified; 0 for none; 'last:0.2' for the last fifth in official order, as in
  # Keras' validation_split; 'random:0.2' for a fifth drawn without regard to classes; 'batch_1' for
  # the first official file; or 'test' for the test set, which all results then state.
  config.data.validation = ml_collections.FieldReference(0.1, field_type=object)
  config.data.split_seed = 0  # seed of the validation split; runs that differ in `seed` share it
  config.data.train_examples = 0  # train on this many examples, stratified; 0 for all
  config.data.epoch_examples = 0  # repeat a small dataset whole until an epoch has about this many
  # Train on one official file after another, each for an equal share of the epochs.
  config.data.file_by_file = False
  config.data.normalize = "standardize"  # by channel mean and deviation; 'unit' for pixels / 255
  # Datasets up to this size are kept on each device. Larger ones are streamed.
  config.data.resident_bytes = 2 * 1024**3
  config.data.workers = 0  # processes that read ahead when streaming; 0: threads, usually faster

  # Transforms of training images, in order: 'random_crop(padding=4) | random_flip()'.
  # docs/catalogue.md lists the names.
  config.augment = ""

  # Transforms of the images that are evaluated or predicted, written like `augment`; usually '',
  # none. cifar_jax/augment/evaluation.py explains which transforms are allowed.
  config.eval_transform = ""

  config.loss = ml_collections.ConfigDict()
  config.loss.label_smoothing = 0.0  # fraction of each label that is spread over all classes
  # ((pattern, coefficient), ...): add coefficient * sum(w ** 2) for each parameter, as Keras'
  # kernel_regularizer does. PyTorch's SGD(weight_decay=d) is (('', d / 2),).
  config.loss.l2 = ()

  config.optimizer = ml_collections.ConfigDict()
  config.optimizer.name = "sgd"  # docs/catalogue.md lists the names
  config.optimizer.learning_rate = 0.1  # the schedule's highest or first rate
  config.optimizer.weight_decay = 0.0  # decoupled: w -= learning_rate * weight_decay * w
  config.optimizer.freeze = ()  # patterns of parameters that never change
  config.optimizer.lr_multipliers = ()  # ((pattern, factor), ...): scale the learning rate
  config.optimizer.freeze_after = ()  # ((pattern, epochs), ...): freeze after that many epochs
  config.optimizer.clip_norm = 0.0  # largest global norm of the gradient; 0 for no clipping

  config.schedule = ml_collections.ConfigDict()
  config.schedule.name = "constant"  # docs/catalogue.md lists the names

  # Decay of a moving average of weights and statistics, evaluated in their place; 0 for none.
  config.ema_decay = 0.0

  # Lookahead keeps a slow copy of weights and statistics. After every `every` steps the copy and
  # the weights both become d * slow + (1 - d) * fast, where d = decay * (fraction of the run) **
  # power. The last step of num_epochs ends with the slow weights. Earlier epochs are evaluated,
  # and may be selected, with the fast ones. every = 0 turns Lookahead off.
  config.lookahead = ml_collections.ConfigDict()
  config.lookahead.every = 0  # steps
  config.lookahead.decay = 0.5
  config.lookahead.power = 0.0

  # Train on the `keep` examples of each batch that a proxy network finds hardest; 0 for all. The
  # proxy learns from the same examples in every `learn_every`-th step. See
  # cifar_jax/training/hard_examples.py.
  config.proxy = ml_collections.ConfigDict()
  config.proxy.keep = 0
  config.proxy.learn_every = 1  # steps
  config.proxy.model = ml_collections.ConfigDict({"name": "airbench94"})
  config.proxy.freeze = ()  # patterns of the proxy's parameters, in addition to optimizer.freeze

  # Reduce the learning rate when the monitored metric stops improving. The metrics are train_loss,
  # train_accuracy, val_loss, val_accuracy and val_objective (loss and L2 penalty); '' is off.
  config.plateau = ml_collections.ConfigDict()
  config.plateau.monitor = ""
  config.plateau.mode = "min"
  config.plateau.factor = 0.1
  config.plateau.patience = 10  # epochs
  config.plateau.min_delta = 1e-4
  config.plateau.cooldown = 0  # epochs
  # All reductions together leave at least min_lr / optimizer.learning_rate of the schedule's rate.
  # With a schedule that decays, the learning rate may therefore fall below min_lr.
  config.plateau.min_lr = 0.0

  # Stop when the monitored metric stops improving; monitor '' is off.
  config.early_stopping = ml_collections.ConfigDict()
  config.early_stopping.monitor = ""
  config.early_stopping.mode = "min"
  config.early_stopping.patience = 10  # epochs
  config.early_stopping.min_delta = 0.0

  # Stop if an epoch's training loss exceeds `factor` times the median over the previous `epochs`
  # epochs; 0 for never. With several seeds, the mean of the finite losses counts.
  config.stop_on_spike = ml_collections.ConfigDict()
  config.stop_on_spike.factor = 0.0
  config.stop_on_spike.epochs = 5

  # The epoch whose weights are kept as `best` and tested at the end; monitor '' is the last epoch.
  config.select = ml_collections.ConfigDict()
  config.select.monitor = "val_accuracy"
  config.select.mode = "max"

  config.evaluate_train = False  # evaluate the selected weights on the training examples too

  # Test-time augmentation, such as 'flip' or 'multicrop': also test the selected weights on several
  # views of each image (cifar_jax/augment/test_time.py); '' for none.
  config.tta = ""

  config.checkpoint_every = 1  # epochs; the last epoch is always saved
  # Keep a checkpoint for good after every `keep_every` epochs, to fork runs from; 0 for none. A
  # checkpoint of resnet18 with momentum takes 134 MB.
  config.keep_every = 0

  # Save memory: recompute the blocks of residual networks in the backward pass instead of keeping
  # their activations. The mathematics is the same, but takes more time. It saves nothing on CPU.
  config.remat = False
  # Save memory: divide the batch into passes of this many examples, over all devices, and average
  # their gradients; 0 for one pass. Batch norm then normalises by the statistics of each pass.
  config.microbatch = 0

  # Steps per dispatch, one call of a compiled program. 0 means an epoch on accelerators, but one
  # step on CPU or if images are streamed. Where the CPU kernels cannot be compiled, XLA computes
  # the convolutions, which takes about 100 times as long inside a loop.
  config.steps_per_dispatch = 0

  return config
